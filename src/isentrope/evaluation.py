"""Evaluation of any model on any data, with the engine and the rewards of an actor and without a broker.

Importing this is light: the learner's figures, vLLM and torch are loaded by the functions that need them.
"""

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from isentrope.actors.actor import first_error
from isentrope.actors.groups import GroupMaker, TooFewResponsesError
from isentrope.actors.worker import config_of, equip
from isentrope.check import cuda, install
from isentrope.check.findings import Checked
from isentrope.check.model import longest, open_model, read_config
from isentrope.check.source import KEY
from isentrope.check.source import find as find_model
from isentrope.check.weights import shards
from isentrope.config import accept
from isentrope.errors import ConfigError, DataError, IsentropeError
from isentrope.launch.plan import make_spec
from isentrope.learner.records import EvalRow
from isentrope.model_folder import CONFIG, FINAL, INDEX, WEIGHTS, choose, versions
from isentrope.resolved import RUN_FILE
from isentrope.rollout.config import TASK, SamplingConfig
from isentrope.rollout.data.prompts import Prompts, PromptTooLongError, open_prompts
from isentrope.rollout.data.tables import FORMATS
from isentrope.rollout.rewards.correctness import correctness_of
from isentrope.rollout.wire.spec import RunSpec
from isentrope.rollout.wire.types import EvalOrder, EvalResult, Group, version_of
from isentrope.rollout.wire.weights import Manifest, describe
from isentrope.runfile import COMMAND_LINE, RunFile, from_values, overridden, raise_all, read
from isentrope.runfolder import find, read_record
from isentrope.toml_text import toml_value

NAME = "eval"

Shown = Callable[[int, int], None]
"""Called with the prompts that are answered and those there are."""

Take = Callable[[EvalOrder, Group | IsentropeError], None]
"""Called with each order that has ended."""


@dataclass(frozen=True, slots=True)
class Request:
    """Arguments of an evaluation. data: a file or task; empty: the run's held-out data. samples: responses to a
    prompt; None: as in the run. version: of a run; empty: the newest. overrides: `key=value`."""

    place: Path
    data: str = ""
    samples: int | None = None
    version: str = ""
    overrides: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Everything that an evaluation needs: the run's facts as an actor knows them, the weights, the prompts."""

    spec: RunSpec
    manifest: Manifest
    prompts: Prompts

    @property
    def orders(self) -> list[EvalOrder]:
        """An order for each prompt."""
        from isentrope.learner.training.evaluator import orders

        return orders(self.manifest.version, self.prompts.eval_counts, self.spec.data)


def prepare(request: Request) -> Evaluation:
    """Return the evaluation of a run's version, by that run's settings, or of a model folder.

    Raises:
        IsentropeError: a part of the install is missing; there is no such run, model, version or data; or a setting is
            wrong.
    """
    raise_all([*install.missing("actor", "learner"), *cuda.failures()])
    if not request.place.exists():
        raise ConfigError(
            f"there is no folder or file {request.place}",
            where=COMMAND_LINE,
            fix="give a model folder, a run's folder or its run file; download a model of the Hub first",
        )
    if (request.place / CONFIG).is_file():
        config, file = accept(_file_beside(request) or _model_file(request))
        manifest = weights_of(request.place, config.model.dtype)
    else:
        folder = find(request.place)
        read_record(folder)
        config, file = accept(_with_data(read(folder / RUN_FILE, request.overrides), request))
        manifest = choose(versions(folder), request.version, folder)
    model, _, errors = open_model(config, file)
    raise_all(errors)
    prompts = open_prompts(config.data, run_folder=file.folder, seed=config.run.seed)
    if not prompts.eval_count:
        raise ConfigError(
            "there is no held-out data", where=file.where("data.eval"), fix="give a file or task by --data"
        )
    checked = Checked(config, file, digest="", data_digest=prompts.digest, model=model, notes=())
    return Evaluation(make_spec(checked, request.place), manifest, prompts)


async def evaluate(evaluation: Evaluation, shown: Shown) -> list[EvalRow]:
    """Start an engine and rewards, and return the figures of each set of prompts."""
    async with AsyncExitStack() as stack:
        tools = await equip(stack, evaluation.spec, config_of(evaluation.spec))
        await tools.engine.load(evaluation.manifest)
        return await figures(evaluation, tools.maker, shown)


async def figures(evaluation: Evaluation, maker: GroupMaker, shown: Shown) -> list[EvalRow]:
    """Return the figures over all prompts of each set, answered by an engine that serves the weights.

    A prompt that gets no answer is left out, as in the evaluations of a run.

    Raises:
        DataError: no prompt of a set was answered.
        IsentropeError: the engine died, or the rewards fail too often.
    """
    from isentrope.learner.training.evaluator import eval_row

    wanted = evaluation.orders
    results: list[EvalResult] = []
    failures: list[IsentropeError] = []

    def take(order: EvalOrder, answered: Group | IsentropeError) -> None:
        if isinstance(answered, Group):
            results.append(EvalResult(order.name, order.version, answered))
        else:
            failures.append(answered)
        shown(len(results) + len(failures), len(wanted))

    await answer(evaluation.spec, maker, wanted, take)
    correctness, version = correctness_of(evaluation.spec.data), evaluation.manifest.version
    rows = []
    for name in dict.fromkeys(order.name for order in wanted):
        own = [result for result in results if result.name == name]
        if not own:
            raise DataError(f"no prompt was answered; the first: {failures[0].what}", where=failures[0].where)
        rows.append(eval_row(version, own, correctness, None, name=name))
    return rows


async def answer(spec: RunSpec, maker: GroupMaker, wanted: Sequence[EvalOrder], take: Take) -> None:
    """Call `take` with each order and its group, or why it has none; as many are made at once as by an actor.

    Raises:
        IsentropeError: the engine died, the rewards fail too often, or a prompt is too long and may not be.
    """
    places = asyncio.Semaphore(config_of(spec).max_concurrent_groups)
    skips = spec.data.too_long == "skip"

    async def one(order: EvalOrder) -> None:
        async with places:
            try:
                group = await maker.score(await maker.generate(order), NAME)
            except (TooFewResponsesError, PromptTooLongError) as error:
                if isinstance(error, PromptTooLongError) and not skips:
                    raise
                take(order, error)
            else:
                take(order, group)

    try:
        async with asyncio.TaskGroup() as group:
            for order in wanted:
                group.create_task(one(order))
    except BaseExceptionGroup as errors:
        raise first_error(errors) from None


def _with_data(file: RunFile, request: Request) -> RunFile:
    """Return the file with the data and samples of the command line."""
    if request.data:
        place = Path(request.data)
        if place.suffix in FORMATS and not place.exists():
            raise ConfigError(f"there is no file {request.data}", where=COMMAND_LINE, fix="check the path after --data")
        data = str(place.resolve()) if place.is_file() else request.data
        held_out = "" if data.startswith(TASK) else data  # a task has a held-out part of its own
        file = overridden(file, [f"data.train={toml_value(data)}", f"data.eval={toml_value(held_out)}"])
    return file if request.samples is None else overridden(file, [f"data.eval_samples={request.samples}"])


def _model_file(request: Request) -> RunFile:
    """Return a run file for a model folder, whose weights are computed with in the format that they are stored in,
    and whose responses take half of its positions at most, unless the command says more."""
    if not request.data:
        raise ConfigError(
            f"{request.place} is a model, which has no data", where=COMMAND_LINE, fix="give a file or task by --data"
        )
    model: dict[str, object] = {"path": str(request.place.resolve())}
    file = from_values(Path(NAME).absolute(), {"run": {"name": NAME}, "model": model})
    positions = longest(read_config(find_model(str(request.place.resolve()), file), file.where(KEY)))[0]
    facts: Mapping[str, object] = json.loads((request.place / CONFIG).read_text(encoding="utf-8"))
    if (facts.get("dtype") or facts.get("torch_dtype")) == "float32":
        model["dtype"] = "float32"
    given = overridden(file, request.overrides).values["model"]
    limit = given.get("max_model_len", positions) if isinstance(given, dict) else positions
    length = min(SamplingConfig().max_new_tokens, max(1, limit // 2)) if isinstance(limit, int) else 1
    file = _with_data(overridden(file, [f"sampling.max_new_tokens={length}", *request.overrides]), request)
    data = file.values["data"]
    if isinstance(data, dict) and not data.get("reward") and not str(data["train"]).startswith(TASK):
        raise ConfigError(
            "nothing says what rewards a response",
            where=COMMAND_LINE,
            fix="add data.reward=exact_match, or data.reward=MODULE:FUNCTION, to the command",
        )
    return file


def _file_beside(request: Request) -> RunFile | None:
    """Return the run file of the run that left this model in its folder; None: no run did."""
    place = request.place.resolve()
    if place.name != FINAL or not (place.parent / RUN_FILE).is_file():
        return None
    path = f"model.path={toml_value(str(place))}"
    return _with_data(read(place.parent / RUN_FILE, [path, *request.overrides]), request)


def weights_of(folder: Path, dtype: str) -> Manifest:
    """Return the description of a model folder's weights, as one version."""
    files = [WEIGHTS]
    if (folder / INDEX).is_file():
        files = shards(folder / INDEX, KEY)
    elif not (folder / WEIGHTS).is_file():
        raise ConfigError(
            f"{folder} has no weights as safetensors: neither {WEIGHTS} nor {INDEX}",
            fix="save the model with save_pretrained",
        )
    return describe(folder, version=version_of(1, 0), dtype=dtype, files=files)
