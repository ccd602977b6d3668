"""One thing that can be looked up, as text. Knows nothing of where entries come from, nor how they are shown."""

from dataclasses import dataclass
from enum import StrEnum


class Sort(StrEnum):
    """What an entry is about."""

    KEY = "key of the run file"
    STAGE = "stage of the objective"
    OUTPUT = "output"
    METHOD = "method"
    EXIT_CODE = "exit code"


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing that can be looked up."""

    sort: Sort
    name: str
    """What it is asked for by: the path of a key, a stage with its dimension, a number."""
    text: str
    """What it means."""
    group: str
    """Heading it stands under: a table of the run file, a dimension, a file of the run's folder."""
    value: str = ""
    """Type and bounds of a key or an output."""
    default: str = ""
    """Value of a key that is not set; empty: there is none, it must be set."""
    keys: tuple["Entry", ...] = ()
    """Keys of a stage."""
