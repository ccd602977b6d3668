"""`isentrope score`: answers every training prompt by the model that a run begins with, and writes scores beside the
data, by which a run file can choose and order prompts.

Prompts are evaluation work. What is answered is kept in an unfinished file, from which the same command goes on; the
scores themselves appear at once, when all prompts have them. Importing this is light.
"""

import asyncio
import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from rich.console import Console

from isentrope.actors.groups import GroupMaker
from isentrope.actors.worker import config_of, equip
from isentrope.check import cuda, install
from isentrope.check.findings import Checked
from isentrope.check.model import open_model
from isentrope.config import accept
from isentrope.console import say, tell, working
from isentrope.environment import set_defaults
from isentrope.errors import ConfigError, DataError, IsentropeError, StorageError
from isentrope.evaluation import Shown, answer, weights_of
from isentrope.launch.plan import make_spec
from isentrope.rollout.config import HELD_OUT
from isentrope.rollout.data.prompts import open_prompts
from isentrope.rollout.data.scores import read_scores, scores_path, scores_text
from isentrope.rollout.rewards.correctness import Correctness, correctness_of, judge, reward_names
from isentrope.rollout.wire.files import write_whole
from isentrope.rollout.wire.spec import RunSpec
from isentrope.rollout.wire.types import EvalOrder, Finish, Group, Response
from isentrope.rollout.wire.weights import Manifest
from isentrope.runfile import COMMAND_LINE, overridden, raise_all, read

PART = ".part"
"""Suffix of the file of prompts that are answered, while others are not."""

_NEUTRAL = ("data.keep=", "data.order=shuffled", "data.stages=1", "data.stage_passes=1")
"""Every prompt is answered, and what these keys name may be what is to be written."""

Row = Mapping[str, float | None]


@dataclass(frozen=True, slots=True)
class Request:
    """Arguments of the command. samples: responses to a prompt; None: `sampling.group_size`."""

    run_file: Path
    samples: int | None = None
    overrides: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Target:
    """The scores of one data file. name: its set of orders. rows: prompts in it. facts: how they are made."""

    name: str
    path: Path
    rows: int
    facts: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Scoring:
    """The run's facts as an actor knows them, with the training data in place of the held-out ones."""

    spec: RunSpec
    manifest: Manifest
    targets: Sequence[Target]


class Kept:
    """Rows of a file that have scores, kept as they come. A line that a kill has cut off is left out."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.rows: dict[int, Row] = {}
        self._path = target.path.with_name(target.path.name + PART)
        head = json.dumps(target.facts)
        lines = self._path.read_text(encoding="utf-8").splitlines() if self._path.exists() else []
        if lines[:1] == [head]:
            self.rows = dict(_whole(lines[1:]))
        kept = [head, *(json.dumps([index, row]) for index, row in self.rows.items())]
        with _storing(self._path):
            write_whole(self._path, "".join(f"{line}\n" for line in kept), durable=False)

    def add(self, index: int, row: Row) -> None:
        """Keep the scores of a row."""
        self.rows[index] = row
        with _storing(self._path), self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps([index, row]) + "\n")

    def finish(self) -> None:
        """Write the scores of all rows."""
        rows = [self.rows[index] for index in range(self.target.rows)]
        with _storing(self.target.path):
            write_whole(self.target.path, scores_text(self.target.facts, rows), durable=True)
            self._path.unlink()


def score(request: Request, as_json: bool, console: Console) -> int:
    """Write the scores of a run's training prompts, and print where they are; returns the exit code."""
    set_defaults()
    scoring = prepare(request)
    targets = [target for target in scoring.targets if not _is_complete(target)]
    with working(console, f"the engine of {scoring.manifest.folder} to start and to answer", quiet=as_json) as show:
        if targets:
            asyncio.run(_answered(scoring, targets, lambda done, of: show(f"{done} of {of} prompts are answered")))
    for target in scoring.targets:
        scores = read_scores(target.path)
        assert scores is not None, "it was written above"
        between = sum(0 < rate < 1 for index in range(len(scores)) if (rate := _rate(scores.value(index, "pass_rate"))))
        told = f"{target.path}: scores of {len(scores)} prompts ({', '.join(scores.columns)})"
        told += "" if target.facts["correct"] == "" else f"; {between} have a pass rate above 0 and below 1"
        tell(console, as_json, told, {"path": str(target.path), "rows": len(scores), "between": between})
    if not as_json:
        say(console, 'use them by data.order = "scored:<column>" or data.keep = "0 < pass_rate < 1"')
    return 0


def prepare(request: Request) -> Scoring:
    """Return what is to be answered.

    Raises:
        IsentropeError: a part of the install is missing; the run file has a mistake; or its prompts are a task's.
    """
    raise_all([*install.missing("actor", "learner"), *cuda.failures()])
    config, file = accept(overridden(read(request.run_file, request.overrides), _NEUTRAL))
    if config.data.task:
        raise ConfigError(
            f"{config.data.task} makes its prompts one after another: there is no file to write scores for",
            where=file.where("data.train"),
            fix="write its prompts into a file",
        )
    if request.samples is not None and not 1 <= request.samples <= 1024:
        raise ConfigError(
            f"{request.samples} responses to each prompt were asked for", where=COMMAND_LINE, fix="give 1 to 1024"
        )
    model, source, errors = open_model(config, file)
    raise_all(errors)
    if source.folder is None:
        raise ConfigError(
            f"{source.name} is not downloaded", where=file.where("model.path"), fix="download it, or give a folder"
        )
    manifest = weights_of(source.folder, config.model.dtype)
    samples = config.sampling.group_size if request.samples is None else request.samples
    data = config.data.model_copy(
        update={
            "eval": config.data.train,
            "eval_prompts": 1 << 40,
            "eval_samples": samples,
            "eval_temperature": None,
            "eval_top_p": 1.0,
        }
    )
    prompts = open_prompts(data, run_folder=file.folder, seed=config.run.seed)
    facts = {
        "weights": manifest.digest,
        "model": config.model.path,
        "samples": samples,
        "seed": config.run.seed,
        "temperature": config.sampling.temperature,
        "max_new_tokens": config.sampling.max_new_tokens,
        "rewards": reward_names(data),
        "correct": str(correctness_of(data) or ""),
    }
    targets = [
        Target(name or HELD_OUT, scores_path(place, file.folder), part.whole, {"data": part.table_digest} | facts)
        for (name, place), part in zip(data.train_files.items(), prompts.files, strict=True)
    ]
    asked = config.model_copy(update={"data": data})
    checked = Checked(asked, file, digest="", data_digest=prompts.digest, model=model, notes=())
    return Scoring(make_spec(checked, file.folder), manifest, targets)


async def _answered(scoring: Scoring, targets: Sequence[Target], shown: Shown) -> None:
    """Start an engine and rewards, and write the scores."""
    async with AsyncExitStack() as stack:
        tools = await equip(stack, scoring.spec, config_of(scoring.spec))
        await tools.engine.load(scoring.manifest)
        for target in targets:
            await write_scores(scoring, target, tools.maker, shown)


async def write_scores(scoring: Scoring, target: Target, maker: GroupMaker, shown: Shown) -> None:
    """Write the scores of one data file, by an engine that serves the weights; goes on with what an earlier one left.

    Raises:
        IsentropeError: the engine died, the rewards fail too often, a prompt is too long and may not be, no prompt was
            answered, or the disk refuses a file.
    """
    kept, correctness = Kept(target), correctness_of(scoring.spec.data)
    samples, version = scoring.spec.data.eval_samples, scoring.manifest.version
    wanted = [
        EvalOrder(target.name, index, version, samples, "") for index in range(target.rows) if index not in kept.rows
    ]
    failures: list[IsentropeError] = []

    def take(order: EvalOrder, answered: Group | IsentropeError) -> None:
        if isinstance(answered, IsentropeError):
            failures.append(answered)
        responses = answered.responses if isinstance(answered, Group) else ()
        kept.add(order.index, scores_of(responses, correctness))
        shown(len(kept.rows), target.rows)

    await answer(scoring.spec, maker, wanted, take)
    if len(failures) == target.rows:
        raise DataError(f"no prompt was answered; the first: {failures[0].what}", where=failures[0].where)
    kept.finish()


def scores_of(responses: Sequence[Response], correctness: Correctness | None) -> Row:
    """Return the scores of a prompt from the responses to it; null where there is nothing to tell.

    answer_entropy: of the counts of different answers, nats; a response without an answer agrees with no other.
    """
    judged = judge(correctness, responses) if responses else None
    answers = [response.answer for response in responses]
    return {
        "pass_rate": None if judged is None else fmean(judged),
        "answer_entropy": _entropy(answers) if any(answers) else None,
        "length_mean": fmean(len(each.tokens) for each in responses) if responses else None,
        "truncated": fmean(each.finish is Finish.LENGTH for each in responses) if responses else None,
        "reward": fmean(each.reward for each in responses) if responses else None,
    }


def _entropy(answers: Sequence[str]) -> float:
    counts = [*Counter(filter(None, answers)).values(), *(1 for each in answers if not each)]
    return -sum(count / len(answers) * math.log(count / len(answers)) for count in counts)


def _is_complete(target: Target) -> bool:
    """Return True if the scores are there, of these data and made in this way."""
    try:
        scores = read_scores(target.path)
    except DataError:
        return False
    same = scores is not None and all(scores.facts.get(name) == value for name, value in target.facts.items())
    return scores is not None and same and len(scores) == target.rows


def _whole(lines: Sequence[str]) -> Iterator[tuple[int, Row]]:
    for line in lines:
        try:
            index, row = json.loads(line)
        except ValueError:
            return
        yield index, row


@contextmanager
def _storing(path: Path) -> Iterator[None]:
    """Raise StorageError where the disk refuses a file."""
    try:
        yield
    except OSError as error:
        fix = "make room, or copy the data to a folder that can be written"
        raise StorageError(f"{path} cannot be written: {error.strerror}", fix=fix) from error


def _rate(value: object) -> float:
    return float(value) if isinstance(value, int | float) else 0.0
