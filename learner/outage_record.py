"""The file of a run's folder that says when a process was missing, and its figures; `records.py` lists it with the
others."""

from typing import Literal

from isentrope.learner.json_files import FileRecord, JsonRecord


class OutageRow(FileRecord):
    """One time in which a process was missing and was replaced, or came back: a line of `outages.jsonl`. Written by the
    command, which looks twice a second."""

    FILE = "outages.jsonl"
    INDISPENSABLE = frozenset({"role", "began", "ended"})

    role: Literal["learner", "actor", "broker"]
    """Process that was missing; an actor's engine is part of it, and all ranks are one learner."""
    name: str
    """Number of the learner that was lost, or id of the actor; empty for the broker."""
    began: float
    """Time of the last sign of it, seconds of Unix time; of a learner, when its newest batch was trained."""
    ended: float
    """Time at which a learner had trained as many batches, as many actors served, or the broker answered."""
    batches: int
    """Batches that were trained again."""


class Recovery(JsonRecord):
    """Faults of one command, and the time that they cost."""

    restarts: dict[str, int]
    """Processes that were lost and replaced, or came back, by role."""
    batches_again: int
    """Batches that were trained again."""
    groups_again: int | None
    """Orders that were given out again since the broker's state began; null: the run left no outcome."""
    seconds_lost: dict[str, float]
    """Seconds without progress, by role: of a learner, from its newest batch until another learner had trained as many;
    of actor and broker, what the learner waited for groups meanwhile beyond the median of a batch."""
    ettr: float | None
    """Effective training time ratio: share of the time after start-up that no fault cost; null: nothing was trained."""
