"""Decides what an actor does next from its situation. Pure: no broker, no engine, no clock."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from isentrope.rollout.broker.run_view import ActorState, Stage
from isentrope.rollout.wire.types import batch_of

REWARD_WINDOW = 200
MAX_REWARD_FAILURES = REWARD_WINDOW // 5
"""Failures among the last `REWARD_WINDOW` reward calls above which the reward code, not a response, is at fault."""


@dataclass(frozen=True, slots=True)
class ActorSituation:
    """What an actor decides by; a version of 0 means that there is none.

    loaded: what the engine serves. newest: the newest announced weights. asked: what waiting evaluation orders are
    pinned to, `loaded` if any of them is. groups: training orders in the engine. evals: evaluation orders held, all
    pinned to `loaded`. my_turn: see `is_my_turn`.
    """

    loaded: int
    newest: int
    asked: int = 0
    groups: int = 0
    evals: int = 0
    my_turn: bool = False

    @property
    def detour(self) -> bool:
        """Whether this actor is to go back to older weights for an evaluation that nobody else will do."""
        return self.my_turn and 0 < self.asked < self.newest and self.asked != self.loaded


def next_load(situation: ActorSituation) -> int:
    """The version to load now; 0: stay.

    An evaluation is finished before its weights are left. Training orders are no hindrance: the engine swaps under
    them, but only forward.
    """
    if situation.loaded and (situation.evals or situation.asked == situation.loaded):
        return 0
    if situation.newest > situation.loaded:
        return situation.newest
    return situation.asked if situation.detour and not situation.groups else 0


def takes_groups(situation: ActorSituation) -> bool:
    """Whether to lease training orders."""
    return situation.loaded >= situation.newest > 0 and not situation.detour


def is_my_turn(actors: Sequence[ActorState], me: str, asked: int, *, limit_s: float) -> bool:
    """Whether `me` is the one to load `asked`: nobody serves it, and `me` is the first of those that could.

    limit_s: an actor silent for longer is not counted on.
    """
    in_use = (Stage.SERVING, Stage.STALE, Stage.SYNCING)
    able = [actor for actor in actors if actor.state in in_use and actor.silent_s <= limit_s]
    if any(actor.version == asked for actor in able):
        return False
    return me == min((actor.id for actor in able if actor.state is Stage.SERVING), default="")


def is_stale(loaded: int, newest: int, *, max_lag: int) -> bool:
    """Whether tokens of `loaded` are older than training admits, in batches."""
    return batch_of(newest) - batch_of(loaded) > max_lag


class RewardHealth:
    """Tells a reward that fails now and then from one that is broken."""

    def __init__(self) -> None:
        self._failed: deque[bool] = deque(maxlen=REWARD_WINDOW)

    def record(self, *, failed: bool) -> None:
        """One more call."""
        self._failed.append(failed)

    @property
    def broken(self) -> bool:
        """Whether more than a fifth of the last 200 calls failed, however many there were."""
        return sum(self._failed) > MAX_REWARD_FAILURES
