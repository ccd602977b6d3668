"""The next step of an actor, as pure functions of its situation: no broker, no engine, no clock."""

from collections import deque
from dataclasses import dataclass
from fractions import Fraction

from isentrope.rollout.wire.types import batch_of

HEALTH_WINDOW = 200
MAX_FAILURES = HEALTH_WINDOW // 5
"""Failures among the last `HEALTH_WINDOW` calls above which what is called, not a response, is broken."""


@dataclass(frozen=True, slots=True)
class ActorSituation:
    """An actor's situation; version 0 means none.

    loaded: the version in the engine. newest: the newest announced version. asked: the version that waiting evaluation
    orders are pinned to, `loaded` if any of them is. groups: training orders in the engine. evals: evaluation orders
    held, all pinned to `loaded`. my_turn: it is for this actor to
    load `asked` if it is older than `newest`.
    """

    loaded: int
    newest: int
    asked: int = 0
    groups: int = 0
    evals: int = 0
    my_turn: bool = False

    @property
    def detour(self) -> bool:
        """True if this actor must load older weights for an evaluation that no other actor will do."""
        return self.my_turn and 0 < self.asked < self.newest and self.asked != self.loaded


def next_load(situation: ActorSituation) -> int:
    """Return the version to load now; 0: keep the loaded one.

    An evaluation is finished before its weights are replaced. Training orders do not prevent a load: the engine swaps
    weights under them, but only forward.
    """
    if situation.loaded and (situation.evals or situation.asked == situation.loaded):
        return 0
    if situation.newest > situation.loaded:
        return situation.newest
    return situation.asked if situation.detour and not situation.groups else 0


def takes_groups(situation: ActorSituation) -> bool:
    """Return True if the actor should lease training orders."""
    return situation.loaded >= situation.newest > 0 and not situation.detour


def is_stale(loaded: int, newest: int, *, max_lag: int) -> bool:
    """Return True if tokens of `loaded` are older, in batches, than training admits."""
    return batch_of(newest) - batch_of(loaded) > max_lag


class CallHealth:
    """Record of calls, for a whole group each, that tells occasional failures from a broken function or engine."""

    def __init__(self) -> None:
        self._failed: deque[Fraction] = deque(maxlen=HEALTH_WINDOW)

    def record(self, *, failed: int, of: int) -> None:
        """Count one more call, in which `failed` of the group's responses failed."""
        self._failed.append(Fraction(failed, of))

    @property
    def broken(self) -> bool:
        """True if more than a fifth of the last 200 calls failed, each counted by its share of failed responses; with
        fewer calls, more than 40."""
        return sum(self._failed) > MAX_FAILURES
