"""What may happen in a schedule of the protocol, and how often: acts are methods of `Protocol`, with their arguments.

Weights are directed at parts of the protocol that chance alone would seldom reach.
"""

from typing import Any, TypeAlias

import hypothesis.strategies as st

from isentrope.rollout.wire.control import Mode

Act: TypeAlias = tuple[str, dict[str, Any]]

PRICE = 2
"""Rounds of work, or small steps, between two faults."""

STEPS = [
    "issue",
    "take",
    "publish",
    "read",
    "train",
    "retire all",
    "shed",
    "requeue",
    "sweep",
    "hand back",
    "reap",
    "refresh",
    "start",
    "save",
    *Mode,
]
LEARNER_FAULTS = ["crash", "crash before plan", "crash after plan", "crash after update"]
COMMIT_FAULTS = ["before write", "before manifest", "before pointer", "before script", "inside script", "after script"]
ACTOR_FAULTS = [
    "twice",
    "poison",
    "fail",
    "dies",
    "dies and is reaped",
    "dies too often",
    "lease race",
    "lost reply",
    "lost reply found",
]
BROKER_FAULTS = ["kill", "roll back", "lose"]
ZOMBIE_ACTS = ["read", "issue", "plan", "announce", "commit", "discard", "reconcile", "step"]

_TRUTH = st.booleans()
_WHO = st.integers(0, 1)
_ZOMBIE = st.sampled_from(ZOMBIE_ACTS)
_LATE = st.sampled_from((*ZOMBIE_ACTS, *("commit" for _ in ZOMBIE_ACTS)))
"""What a learner tries that was just replaced: most often a checkpoint, which is caught in that moment alone."""
_MEANWHILE = st.lists(st.sampled_from(["train", "commit", "issue", "read"]), max_size=3)


def _acts(weight: int, name: str, **arguments: st.SearchStrategy[Any]) -> list[st.SearchStrategy[Act]]:
    return [st.tuples(st.just(name), st.fixed_dictionaries(arguments)) for _ in range(weight)]


FREE = ("work", "step", "zombie_acts")
"""Acts that are not faults."""

ACTS = st.one_of(
    *_acts(4, "work", rounds=st.integers(1, 3), save=_TRUTH, commit=_TRUTH),
    *_acts(10, "step", what=st.sampled_from(STEPS), who=_WHO),
    *_acts(2, "zombie_acts", what=_ZOMBIE),
    *_acts(2, "actor_fault", who=_WHO, how=st.sampled_from(ACTOR_FAULTS)),
    *_acts(1, "learner_fault", how=st.sampled_from(LEARNER_FAULTS)),
    *_acts(1, "commit_fault", how=st.sampled_from(COMMIT_FAULTS)),
    *_acts(1, "poisoned_batch", letters=st.integers(1, 2), commit=_TRUTH),
    *_acts(1, "read_reply_lost", count=st.integers(1, 3)),
    *_acts(1, "checkpoint_unreadable"),
    *_acts(2, "take_over", meanwhile=_MEANWHILE, then=_LATE),
    *_acts(2, "broker_fault", how=st.sampled_from(BROKER_FAULTS), crash=_TRUTH, first=st.none() | _ZOMBIE),
)
