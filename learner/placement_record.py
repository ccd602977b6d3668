"""The file of a run's folder that says where the actors of the command are; `records.py` lists it with the others."""

from typing import Literal

from isentrope.learner.json_files import FileRecord, JsonRecord


class PlacedRecord(JsonRecord):
    """One actor that the command has started."""

    INDISPENSABLE = frozenset({"state"})

    state: Literal["wanted", "placing", "booting", "serving", "leaving"]
    """Its state: another is wanted; no node has room yet; its engine starts; it has served; fewer are wanted."""
    host: str
    """Machine of its node; empty: none has room yet."""


class PlacementRecord(FileRecord):
    """The actors of the command that runs, and their places: `placement.json`. Written by the command when they
    change."""

    FILE = "placement.json"

    wanted: int
    """Actors that the command keeps up; those that others have started are not among them."""
    waits: str
    """Actors that wait for room, and what they need; empty: all have a place."""
    actors: dict[str, PlacedRecord]
    """Each by its id."""


class ScaleRow(FileRecord):
    """One change of the number of actors that the command keeps up: a line of `scale.jsonl`. Written by the command."""

    FILE = "scale.jsonl"
    INDISPENSABLE = frozenset({"why"})

    at: float
    """Time of the change, seconds of Unix time."""
    batch: int
    """Newest trained batch."""
    before: int
    """Actors that were wanted before."""
    wanted: int
    """Actors that are wanted now."""
    why: Literal["asked", "idle", "closed"]
    """Cause: `isentrope scale`; or, with `actors.autoscale`, a learner that waited, or admission that was closed."""
    idle: float | None = None
    """Share of the last batches' time in which the learner waited for groups; absent where the change was asked for."""
    closed: float | None = None
    """Share of looks during the last batches in which admission was closed; absent where the change was asked for."""
