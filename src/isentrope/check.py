"""Check of everything a run file points to, before anything is started: objective, data, rewards, model.

It goes on after a mistake, so that all mistakes are reported at once. It starts no engine and opens no broker.
"""

import asyncio
import dataclasses
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from isentrope import config as run_config
from isentrope.actors.scoring import Scorer
from isentrope.config import Config
from isentrope.errors import ConfigError, IsentropeError
from isentrope.rollout.data.prompts import TASK, Prompts, check_lengths, open_prompts
from isentrope.rollout.data.rows import Row
from isentrope.rollout.data.tokenizer import load_tokenizer
from isentrope.runfile import RunFile, raise_all

SPECIAL_TOKENS = 16
"""Upper bound of the tokens that a tokenizer adds to a text."""

TEMPLATE_TOKENS = 512
"""Upper bound of the tokens that a chat template adds to its messages."""


@dataclass(frozen=True, slots=True)
class Model:
    """Facts of the model, known before it is loaded."""

    path: str
    """Absolute folder, or Hugging Face id."""
    vocab_size: int
    max_model_len: int
    """Longest prompt plus response in tokens."""


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


def check(config: Config, file: RunFile, model: Model | None = None) -> Checked:
    """Return the checked run, or raise its errors in the order of the stages.

    Args:
        model: facts of a model that is still to be made; None: it exists.
    """
    findings = Findings(config, file, model)
    raise_all([error for _, errors in findings.stages() for error in errors])
    return findings.checked()


class Findings:
    """The stages of the check, one by one, and their errors."""

    def __init__(self, config: Config, file: RunFile, model: Model | None = None) -> None:
        self._config = config
        self._file = file
        self._objective: object = None
        self._prompts: Prompts | None = None
        self._model = model
        self._notes: list[str] = []

    def stages(self) -> Iterator[tuple[str, list[Exception]]]:
        """Yield name and errors of each stage, as it ends."""
        for name, stage in (
            ("objective", self._check_objective),
            ("data", self._check_data),
            ("reward", self._check_reward),
            ("model", self._check_model),
        ):
            yield name, [_placed(error, self._file) for error in _errors(stage)]

    def checked(self) -> Checked:
        """Return the run if no stage found an error; else raise the errors."""
        assert self._prompts is not None and self._model is not None
        return Checked(
            config=self._config,
            file=self._file,
            digest=run_config.digest(self._config, self._objective),
            data_digest=self._prompts.digest,
            model=self._model,
            notes=self._notes,
        )

    def _check_objective(self) -> None:
        from isentrope.learner.objective.run import open_objective, refusals, warnings  # loads torch

        evaluates = bool(self._config.data.eval) or self._config.data.train.startswith(TASK)
        opened = open_objective(
            self._config.learner, self._config.sampling, run_folder=self._file.folder, evaluates=evaluates
        )
        self._config = self._config.model_copy(update={"learner": opened.learner, "sampling": opened.sampling})
        self._objective = opened.merged.plain()
        self._notes = [*opened.suggested, *warnings(opened)]
        contradictions = run_config.contradictions(self._config, self._file) if opened.suggested else ()
        raise_all([*refusals(opened), *contradictions])

    def _check_data(self) -> None:
        config = self._config
        self._prompts = open_prompts(config.data, run_folder=self._file.folder, seed=config.run.seed)

    def _check_reward(self) -> None:
        asyncio.run(self._probe())

    async def _probe(self) -> None:
        """Probe the rewards as an actor does: in another process, with the deadline."""
        async with Scorer(self._config.data, str(self._file.folder)) as scorer:
            if self._prompts is not None:
                await scorer.probe(self._prompts.train(0))

    def _check_model(self) -> None:
        if self._model is not None:
            return
        config = self._config
        model = read_model(config.model.path, self._file)
        limit, own = config.model.max_model_len, model.max_model_len
        if limit is not None and limit > own:
            raise ConfigError(
                f"model.max_model_len = {limit} is more than the {own} positions of {config.model.path}",
                where=self._file.where("model.max_model_len"),
                fix="lower it, or leave it out",
            )
        longest = limit or own
        if config.sampling.max_new_tokens >= longest:
            raise ConfigError(
                f"sampling.max_new_tokens = {config.sampling.max_new_tokens} leaves no room for a prompt in the "
                f"{longest} tokens of the model",
                where=self._file.where("sampling.max_new_tokens"),
                fix="lower it",
            )
        self._model = dataclasses.replace(model, max_model_len=longest)
        if config.data.too_long == "error" and self._prompts is not None and not config.data.train.startswith(TASK):
            self._check_lengths(self._prompts, self._model)

    def _check_lengths(self, prompts: Prompts, model: Model) -> None:
        room = model.max_model_len - self._config.sampling.max_new_tokens
        suspects = [row for row in prompts.rows() if _most_tokens(row) > room]  # loading a tokenizer takes seconds
        if not suspects:
            return
        check_lengths(
            suspects,
            load_tokenizer(model.path, self._file.where("model.path"), self._config.model),
            max_new_tokens=self._config.sampling.max_new_tokens,
            max_model_len=model.max_model_len,
        )


def read_model(path: str, file: RunFile) -> Model:
    """Return the facts of the model in a folder, or of a Hugging Face id; ConfigError if there is none."""
    folder = file.folder / path
    where = file.where("model.path")
    if folder.is_dir():
        source = folder / "config.json"
        if not source.is_file():
            raise ConfigError(f"{folder} is not a model: it has no config.json", where=where)
    elif path.startswith((".", "/", "~")) or path.count("/") > 1:
        raise ConfigError(f"there is no model folder {folder}", where=where, fix="give a folder or a Hugging Face id")
    else:
        source = _download_config(path, where)
    facts = json.loads(source.read_text(encoding="utf-8"))
    facts = facts.get("text_config", facts)
    try:
        return Model(str(folder.resolve()) if folder.is_dir() else path, *(_size(facts, key) for key in _SIZES))
    except KeyError as error:
        raise ConfigError(f"the model's config.json does not say its {error.args[0]}", where=where) from None


_SIZES = ("vocab_size", "max_position_embeddings")


def _size(facts: dict[str, Any], key: str) -> int:
    return int(facts[key])


def _download_config(name: str, where: str) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(name, "config.json"))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise ConfigError(
            f"no model {name!r}: not a local folder, and not on the Hugging Face Hub ({type(error).__name__})",
            where=where,
            fix="check the name; a private model needs HF_TOKEN",
        ) from None


def _most_tokens(row: Row) -> int:
    """Return an upper bound of a prompt's tokens: its bytes, plus the tokens that tokenizer and template add."""
    if isinstance(row.prompt, str):
        return len(row.prompt.encode()) + SPECIAL_TOKENS
    return sum(len(message["content"].encode()) for message in row.prompt) + TEMPLATE_TOKENS


def _errors(stage: Callable[[], None]) -> Sequence[Exception]:
    try:
        stage()
    except ExceptionGroup as group:
        return group.exceptions
    except IsentropeError as error:
        return [error]
    return []


def _placed(error: Exception, file: RunFile) -> Exception:
    """Return the error with file and line, if it only has the key."""
    if not isinstance(error, IsentropeError) or error.where.startswith(file.path.name):
        return error
    key, space, rest = error.where.partition(" ")
    table = key.partition(".")[0]
    if table not in Config.model_fields:
        return error
    return type(error)(error.what, where=file.where(key) + space + rest, fix=error.fix)
