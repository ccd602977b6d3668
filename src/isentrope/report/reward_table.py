"""The single reward functions of a run: which of them moves, and which does not apply."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from isentrope.learner.measures import FunctionReward
from isentrope.learner.records import BatchRow
from isentrope.report.windows import WINDOW, mean
from isentrope.report.words import percent


@dataclass(frozen=True, slots=True)
class RewardLine:
    """One function, or a component of one: its means in the first and the last batches, and what it did there."""

    name: str
    first: str
    last: str
    std: str
    """Standard deviation over the responses of a batch, in the last batches."""
    missing: str
    """Share of the responses to which it did not apply, over all batches."""


def reward_lines(batches: Sequence[BatchRow]) -> tuple[RewardLine, ...]:
    """Return a line for each function; none where there is only one, which is the reward."""
    names = list(dict.fromkeys(name for row in batches for name in row.rewards))
    if len(names) < 2:
        return ()
    return tuple(_line(name, [row.rewards[name] for row in batches if name in row.rewards]) for name in names)


def _line(name: str, values: Sequence[FunctionReward]) -> RewardLine:
    first, last = values[:WINDOW], values[-WINDOW:]
    return RewardLine(
        name=name,
        first=_mean(value.mean for value in first),
        last=_mean(value.mean for value in last),
        std=_mean(value.std for value in last),
        missing=percent(mean(value.missing for value in values)),
    )


def _mean(values: Iterator[float | None]) -> str:
    given = [value for value in values if value is not None]
    return f"{mean(given):.3f}" if given else "\u2013"
