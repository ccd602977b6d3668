"""Data files and data sets as tables, by their names."""

import socket
from collections.abc import Callable
from pathlib import Path

from isentrope.errors import DataError, nearest
from isentrope.rollout.data.arrow_table import open_parquet
from isentrope.rollout.data.hub import data_set, open_data_set
from isentrope.rollout.data.jsonl_table import JsonlTable
from isentrope.rollout.data.table import Check, Table
from isentrope.rollout.data.whole_files import CsvTable, JsonTable

_KINDS: dict[str, Callable[[Path, Check], Table]] = {
    ".jsonl": JsonlTable,
    ".parquet": open_parquet,
    ".json": JsonTable,
    ".csv": CsvTable,
}

FORMATS = frozenset(_KINDS)
"""Suffixes of the files that can be read."""

SUPPORTED = (
    f"give a {', '.join(_KINDS)} file, a data set of the Hugging Face Hub such as openai/gsm8k:main:train, or a "
    "built-in task such as task:digit_walk"
)


def open_named(name: str, run_folder: Path, check: Check) -> Table:
    """Return the table of a data file, relative to the run file's folder, or of a data set.

    Raises:
        DataError: as `open_table`, or the data set cannot be opened.
    """
    path = run_folder / Path(name).expanduser()
    if path.suffix not in _KINDS and (chosen := data_set(name, run_folder)):
        return open_data_set(chosen, check)
    return open_table(path, check)


def source_name(name: str) -> str:
    """Return the short name of a data file or data set, for records."""
    path = Path(name)
    return path.stem if path.suffix in _KINDS else name.partition(":")[0]


def open_table(path: Path, check: Check) -> Table:
    """Return the table in `path`, by the ending of its name.

    Raises:
        DataError: the file is missing, unreadable, empty, of a kind not supported, or broken (then with the line).
    """
    if path.suffix not in _KINDS:
        raise DataError(f"{path.name!r} is neither a data file nor a task", where=str(path), fix=SUPPORTED)
    try:
        table = _KINDS[path.suffix](path, check)
    except FileNotFoundError as error:
        there = [file.name for file in path.parent.iterdir()] if path.parent.is_dir() else []
        close = nearest(path.name, there)
        fix = f"did you mean {close}?" if close else "relative paths start at the run file's folder"
        raise DataError(f"{path} does not exist on {socket.gethostname()}", fix=fix) from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
    if not len(table):
        raise DataError(f"{path} has no rows", fix="give a file with at least one row")
    return table
