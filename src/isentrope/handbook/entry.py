"""One entry of the reference, as text."""

from dataclasses import dataclass
from enum import StrEnum


class Sort(StrEnum):
    """Subject of an entry."""

    KEY = "key of the run file"
    STAGE = "stage of the objective"
    OUTPUT = "output"
    METHOD = "method"
    EXIT_CODE = "exit code"


@dataclass(frozen=True, slots=True)
class HelpEntry:
    """One entry of the reference."""

    sort: Sort
    name: str
    """Name to ask for: the path of a key, a stage with its dimension, a number."""
    text: str
    """Meaning of the entry."""
    group: str
    """Heading it stands under: a table of the run file, a dimension, a file of the run's folder."""
    value: str = ""
    """Type and bounds of a key or an output."""
    default: str = ""
    """Value of a key that is not set; empty: there is none, it must be set."""
    keys: tuple["HelpEntry", ...] = ()
    """Keys of a stage."""
    written: str = ""
    """Line of a run file that sets the key of a stage; empty: the name is the path."""
