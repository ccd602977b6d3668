"""The records of a run's folder, for the report.

A run that was killed, or is still going, leaves files incomplete or absent: missing values are None or empty here, and
the page says so. A last line that a crash has truncated is dropped.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError

from isentrope.errors import StorageError


class _Record(BaseModel):
    """A record of which the report uses a part: other keys are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Histogram(_Record):
    """Counts between edges; one edge more than counts."""

    edges: tuple[float, ...]
    counts: tuple[int, ...]


class Times(_Record):
    """Time at which a batch was trained, and the learner's seconds since the batch before, by activity."""

    at: float = 0.0
    """Unix time."""
    seconds_total: float = 0.0
    """Seconds since the learner began."""
    wait_s: float = 0.0
    stats_s: float = 0.0
    update_s: float = 0.0
    publish_s: float = 0.0
    evaluate_s: float = 0.0
    checkpoint_s: float = 0.0


class Batch(_Record):
    """One trained batch: a line of `metrics.jsonl`."""

    batch: int
    mode: str
    reward: float
    entropy: float
    tokens: int
    entropy_hist: Histogram | None = None
    clip_high: float = 0.0
    clip_low: float = 0.0
    logp_gap_mean: float = 0.0
    logp_gap_max: float = 0.0
    lag_max: int = 0
    lag_hist: dict[int, int] = {}
    """Tokens by lag in batches."""
    time: Times = Times()


class Evaluation(_Record):
    """One evaluation on held-out prompts: a line of `eval.jsonl`."""

    batch: int
    prompts: int
    samples: int
    pass_at: dict[int, float]


class Sample(_Record):
    """One response to a held-out prompt: a line of `samples.jsonl`."""

    batch: int
    index: int
    prompt: JsonValue
    tokens: list[str]
    entropy: list[float]
    """Nats, per token."""
    reward: float


class Outcome(_Record):
    """The end of the run: `outcome.json`."""

    status: str
    what: str = ""
    where: str = ""
    fix: str = ""
    trained: int = 0
    retired: dict[str, int] = {}
    issued: int = 0
    published: int = 0
    idle_s: float = 0.0
    total_s: float = 0.0


class Run(_Record):
    """The run's settings and versions: `run.json`."""

    run: str
    method: str
    mode: str
    seed: int
    actors: int
    ranks: int
    versions: dict[str, str] = {}
    started: float = 0.0
    """Unix time."""


_R = TypeVar("_R", bound=_Record)


@dataclass(frozen=True, slots=True)
class Facts:
    """All records of one run."""

    run: Run | None
    outcome: Outcome | None
    batches: tuple[Batch, ...]
    evaluations: tuple[Evaluation, ...]
    """Evaluations with at least one answer."""
    samples: tuple[Sample, ...]

    @property
    def before(self) -> Evaluation | None:
        """The evaluation of the model before training."""
        return self.evaluations[0] if self.evaluations and self.evaluations[0].batch == 0 else None

    @property
    def after(self) -> Evaluation | None:
        """The newest evaluation of a trained model."""
        return self.evaluations[-1] if self.evaluations and self.evaluations[-1].batch > 0 else None


def read(output_dir: Path) -> Facts:
    """Read a run folder; StorageError if a file was not written by this program."""
    return Facts(
        run=_whole(output_dir / "run.json", Run),
        outcome=_whole(output_dir / "outcome.json", Outcome),
        batches=tuple(_lines(output_dir / "metrics.jsonl", Batch)),
        evaluations=tuple(line for line in _lines(output_dir / "eval.jsonl", Evaluation) if line.prompts),
        samples=tuple(_lines(output_dir / "samples.jsonl", Sample)),
    )


def _lines(path: Path, kind: type[_R]) -> Iterator[_R]:
    if not path.exists():
        return
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(keepends=True), 1):
        if line.endswith("\n"):  # else its writer was interrupted
            yield _parsed(f"{path}:{number}", line, kind)


def _whole(path: Path, kind: type[_R]) -> _R | None:
    return _parsed(str(path), path.read_text(encoding="utf-8"), kind) if path.exists() else None


def _parsed(where: str, text: str, kind: type[_R]) -> _R:
    try:
        return kind.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise StorageError(
            f"not a record of this program: {key or 'the line'}: {first['msg']}",
            where=where,
            fix="move the file away; the report works without it",
        ) from None
