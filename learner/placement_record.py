"""The file of a run's folder that says where the actors of the command are; `records.py` lists it with the others."""

from typing import Literal

from isentrope.learner.json_files import FileRecord, JsonRecord


class PlacedRecord(JsonRecord):
    """One actor that the command has started."""

    INDISPENSABLE = frozenset({"state"})

    state: Literal["wanted", "placing", "booting", "serving"]
    """Its state: another is wanted; no node has room yet; its engine starts; it has served."""
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
