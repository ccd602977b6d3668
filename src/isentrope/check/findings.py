"""The stages of the check, one by one, each with the mistakes it finds."""

import asyncio
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

from isentrope import config as run_config
from isentrope.actors import reward_box
from isentrope.check import (
    beginning,
    broker,
    correctness,
    cuda,
    data_choice,
    install,
    kept_training,
    lengths,
    machine,
    rendering,
)
from isentrope.check.model import Model, open_model
from isentrope.check.reward import has_own_code, probe
from isentrope.check.source import KEY, Source
from isentrope.check.supplies import lacking
from isentrope.check.teacher import open_teacher
from isentrope.config import Config
from isentrope.environment import variable
from isentrope.errors import ConfigError, IsentropeError, RewardError, collected
from isentrope.redis_server import find_binary
from isentrope.rollout.data.prompts import Prompts, encode, open_prompts
from isentrope.rollout.data.tokenizer import load_tokenizer
from isentrope.runfile import RunFile, raise_all

_METHOD = "learner.method"
_OBJECTIVE = "learner.objective."


@dataclass(frozen=True, slots=True)
class Checked:
    """A run that may start."""

    config: Config
    """The run file's values, with the presets' suggestions for keys it does not set."""
    file: RunFile
    digest: str
    """Digest of everything that decides what is learned."""
    data_digest: str
    model: Model
    notes: Sequence[str]
    """Suggestions that were applied, and warnings."""
    reference: str = ""
    """Folder or id of a reference policy of its own; empty: the model is its own reference."""
    greedy: bool = False
    """True if the method needs a greedy response to every prompt."""
    demonstrations: bool = False
    """True if it trains demonstrations."""


@dataclass(frozen=True, slots=True)
class Stage:
    """One part of the check. reads: the keys and tables it looks at; it is left out if one of them is wrong, or if it
    is not `ready`, because it needs what an earlier stage did not find. limit: what it left out, or ""."""

    name: str
    run: Callable[[], None]
    reads: tuple[str, ...]
    ready: Callable[[], bool] = lambda: True
    limit: Callable[[], str] = lambda: ""


def check(config: Config, file: RunFile, model: Model | None = None, *, from_kept: bool = False) -> Checked:
    """Return the checked run, or raise its errors in the order of the stages.

    Args:
        model: facts of a model that is still to be made; None: it exists.
        from_kept: the run trains groups that another has kept: it has no actors, no broker and no reward.
    """
    findings = Findings(config, file, model)
    findings.from_kept = from_kept
    raise_all([error for _, errors in findings.stages() for error in errors or ()])
    return findings.checked()


class Findings:
    """The stages of the check, one by one, and their errors."""

    def __init__(
        self,
        config: Config,
        file: RunFile,
        model: Model | None = None,
        *,
        wrong: Collection[str] = (),
        tell: Callable[[str], None] = lambda text: None,
    ) -> None:
        """Prepare the check.

        Args:
            config: the run file's values; keys that are `wrong` have their defaults.
            file: the run file.
            model: facts of a model that is still to be made; None: it exists.
            wrong: keys whose values or names are not allowed; stages that read them are left out.
            tell: shows how far a stage is.
        """
        self._config = config
        self._file = file
        self._wrong = wrong
        self._tell = tell
        self.from_kept = False
        """As in `check`; set before the stages run."""
        self._can_open = False
        self._objective: object = None
        self._refill = 0
        self._prompts: Prompts | None = None
        self._model = model
        self._source: Source | None = None
        self._to_be_made = model is not None
        self._notes: list[str] = []
        self.shown: list[str] = []
        """Lines about what the model will be given, for a reader."""
        self.lengths: lengths.Lengths | None = None
        """Lengths of the prompts; None: not measured, or the model is still to be made."""
        self._reference = ""
        self._needs_greedy = self._needs_demonstrations = False
        self.needs_reference = False
        """True if the objective needs a reference policy."""
        self.needs_critic = False
        """True if it needs a critic."""

    def stages(self) -> Iterator[tuple[str, list[Exception] | None]]:
        """Yield name and errors of each stage, as it ends; None: it was left out."""
        for stage in (
            Stage("install", self._check_install, ()),
            Stage("objective", self._check_objective, ("learner.method", "learner.objective"), lambda: self._can_open),
            Stage("data", self._check_data, ("data",)),
            Stage("reward", self._check_reward, ("data",), lambda: not self.from_kept, limit=self._not_called),
            Stage("model", self._check_model, ("model", "actors.tensor_parallel_size"), lambda: self._can_open),
            Stage(
                "prompts", self._check_prompts, ("data", "model", "redis", "sampling.max_new_tokens"), self._has_room
            ),
            Stage("machine", self._check_machine, ("run", "actors", "cluster", "learner.ranks", "redis")),
        ):
            errors = self._errors(stage)
            yield stage.name + (stage.limit() if errors == [] else ""), errors

    def checked(self) -> Checked:
        """Return the run, if no stage found an error."""
        assert self._prompts is not None and self._model is not None
        return Checked(
            config=self._config,
            file=self._file,
            digest=run_config.digest(self._config, self._objective),
            data_digest=self._prompts.digest,
            model=self._model,
            notes=self._notes,
            reference=self._reference,
            greedy=self._needs_greedy,
            demonstrations=self._needs_demonstrations,
        )

    def _errors(self, stage: Stage) -> list[Exception] | None:
        if not stage.ready() or any(
            key == read or key.startswith(f"{read}.") for read in stage.reads for key in self._wrong
        ):
            return None
        return [_placed(error, self._file) for error in collected(stage.run)]

    def _check_install(self) -> None:
        config = self._config
        self._can_open = not install.lacks("learner")  # torch reads objectives, transformers reads models
        if self.from_kept:
            raise_all(list(install.missing("learner")))
            return
        here = config.actors.count and not config.cluster.ray
        self._notes += [f"no report will be written: {lack} is not installed" for lack in install.lacks("report")]
        no_server = [] if variable(config.redis.url_env) else collected(find_binary)
        raise_all([*install.missing("cluster", "learner", *(["actor"] if here else ())), *no_server])

    def _check_objective(self) -> None:
        from isentrope.learner.objective.needs import Need, needs
        from isentrope.learner.objective.run import naming_suggestions, notes, open_objective, refusals  # loads torch
        from isentrope.learner.objective.stages.reset import never

        opened = open_objective(
            self._config.learner,
            self._config.sampling,
            run_folder=self._file.folder,
            evaluates=not self.from_kept and bool(self._config.data.eval_sets),
            lacks=lacking(self._config),
        )
        self._config = self._config.model_copy(update={"learner": opened.learner, "sampling": opened.sampling})
        self._objective = opened.merged.plain()
        self._refill = opened.objective.refill
        wanted = needs(opened.objective)
        self.needs_reference, self.needs_critic = Need.REFERENCE in wanted, Need.CRITIC in wanted
        self._needs_greedy, self._needs_demonstrations = Need.GREEDY in wanted, Need.DEMONSTRATIONS in wanted
        if self._config.model.reference and not opened.objective.reset.runs(never):
            raise ConfigError(
                "a reset would replace the reference, which is a model of its own, by the trained policy",
                where=self._file.where("model.reference"),
                fix='leave model.reference out, or set reset = "never" in [learner.objective]',
            )
        self._notes += notes(opened)
        if self.from_kept:
            self._notes += kept_training.notes(self._config, opened.objective)
        contradictions = run_config.contradictions(self._config, self._file) if opened.suggested else ()
        raise_all([*refusals(opened), *(naming_suggestions(error, opened.suggested) for error in contradictions)])

    def _check_data(self) -> None:
        config, folder = self._config, self._file.folder
        self._prompts = open_prompts(config.data, run_folder=folder, seed=config.run.seed)
        trained = {folder / name for name in config.data.train_files.values()}
        if any(folder / each.file in trained for each in config.data.eval_sets.values()):
            self._notes.append("data.eval is data.train: evaluations are about prompts that the model is trained on")
        self._notes += data_choice.notes(config.data, self._prompts)

    def _check_reward(self) -> None:
        try:
            scores = asyncio.run(probe(self._config.data, self._file.folder, self._prompts))
        except RewardError as error:
            place = f"data.reward ({error.where})" if error.where else "data.reward"
            where = error.where if error.where.startswith("data.") else place
            raise RewardError(error.what, where=where, fix=error.fix) from error
        self._notes += reward_box.doubts(self._config.data) if has_own_code(self._config.data) else ()
        self._notes += correctness.doubts(self._config.data, [score.parts for score in scores])

    def _not_called(self) -> str:
        return "" if self._prompts is not None else " (imported; not called, because no row could be read)"

    def _check_model(self) -> None:
        if not self._to_be_made:
            self._model, self._source, errors = open_model(self._config, self._file)
            raise_all(errors)
            if self.needs_critic:
                from isentrope.check import critic  # loads torch

                self.shown.append(critic.examined(self._config, self._model, self._source, self._file))
        if self._config.learner.begin_from:
            self.shown += filter(None, [beginning.examined(self._config, self._file)])
        if self._config.model.reference:
            self._reference = open_teacher(self._config.model, self._file, self._model)

    def _has_room(self) -> bool:
        """Return True if prompts and model are known, and leave any length for a prompt."""
        if self._prompts is None or self._model is None:
            return False
        return self._model.max_model_len > self._config.sampling.max_new_tokens

    def _check_prompts(self) -> None:
        from isentrope.check import budget  # loads torch

        prompts, model, source = self._prompts, self._model, self._source
        assert prompts is not None and model is not None
        if source is None:
            return  # the model is still to be made
        where = self._file.where(KEY)
        tokenizer = load_tokenizer(source.loadable, where, self._config.model)
        row = prompts.row(0)
        rendering.require_template(row, tokenizer, where)
        ids = encode(row, tokenizer).tolist()
        self.shown += rendering.shown(row, ids, tokenizer)
        self._notes += rendering.doubts(row, ids, tokenizer)
        rendering.check_vocabulary(row, ids, model.vocab_size, where)
        room = model.max_model_len - self._config.sampling.max_new_tokens
        self.lengths = lengths.measure(prompts, tokenizer, room, self._tell)
        self.shown.append(self.lengths.sentence(room))
        self._notes += lengths.require_room(prompts, self.lengths, room, skip=self._config.data.too_long == "skip")
        longest = min(room, int(self.lengths.tokens.max()))
        if not self.from_kept:
            shows = self._needs_demonstrations
            budget.require_budget(self._config, self._file, longest, self._refill, demonstrations=shows)

    def _check_machine(self) -> None:
        if not self.from_kept:
            self._notes += machine.doubts(self._config)
            self._notes += filter(None, [broker.require_usable(self._config, self._file.where("redis.max_bytes"))])
        on_gpus = () if self._config.cluster.gpus is False else cuda.failures()
        raise_all([*machine.failures(self._config, self._file), *on_gpus])


def _placed(error: Exception, file: RunFile) -> Exception:
    """Return the error with file and line, if it only has the key. What a preset set has the place of the method."""
    if not isinstance(error, IsentropeError) or error.where.startswith(file.path.name):
        return error
    key, space, rest = error.where.partition(" ")
    table = key.partition(".")[0]
    if table not in Config.model_fields:
        return error
    place = file.where(key)
    own = any(f"{key}.".startswith(f"{line}.") for line in file.lines if line.startswith(_OBJECTIVE))
    if rest.startswith("(set by") and not own:
        place = file.where(_METHOD).removesuffix(_METHOD) + key
    return type(error)(error.what, where=place + space + rest, fix=error.fix)
