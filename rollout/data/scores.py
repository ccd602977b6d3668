"""Scores of the rows of a data file: a file beside it, which `isentrope score` writes, with columns that data lack."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from isentrope.errors import DataError
from isentrope.rollout.data.jsonl_table import DECODER

ENDING = ".scores.jsonl"
"""End of the name of a file of scores."""

FIX = "run isentrope score RUN.toml"

FORMAT = 1
"""Format of the files that are read and written."""


class Scores:
    """The scores of a data file: a value of each row for each column; null: the row has none.

    path: the file. facts: how they were made. data: digest of the data file.
    """

    def __init__(self, path: Path, facts: Mapping[str, Any], rows: Sequence[Mapping[str, object]]) -> None:
        self.path, self.facts, self._rows = path, facts, rows
        self.data = str(facts["data"])

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def columns(self) -> list[str]:
        """Names of the scores."""
        return list(self._rows[0]) if self._rows else []

    def value(self, index: int, column: str) -> object:
        """Return the score of a row of the data file; None: it has none."""
        return self._rows[index].get(column) if index < len(self._rows) else None


def scores_path(name: str, run_folder: Path) -> Path:
    """Return the place of the scores of a data file, beside it; of a data set, in the run file's folder."""
    path = run_folder / Path(name).expanduser()
    if path.is_file():
        return path.with_name(path.stem + ENDING)
    return run_folder / (name.replace("/", "--").replace(":", "--") + ENDING)


def read_scores(path: Path) -> Scores | None:
    """Return the scores in a file; None: there is no such file.

    Raises:
        DataError: it cannot be read, or is broken, with the line.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}", fix=f"delete it, and {FIX} again") from error
    records = []
    for number, line in enumerate(lines, start=1):
        try:
            record: object = DECODER.decode(line)
        except (ValueError, RecursionError) as error:
            raise _broken(path, number, f"not valid JSON: {error}") from error
        if not isinstance(record, dict):
            raise _broken(path, number, f"the line holds a {type(record).__name__}, not an object")
        records.append(record)
    if not records or records[0].get("format") != FORMAT or "data" not in records[0]:
        raise _broken(path, 1, "the first line does not say of which data these are scores")
    return Scores(path, records[0], records[1:])


def scores_text(facts: Mapping[str, object], rows: Sequence[Mapping[str, object]]) -> str:
    """Return the contents of a file of scores."""
    return "".join(json.dumps(line) + "\n" for line in ({"format": FORMAT} | dict(facts), *rows))


def _broken(path: Path, number: int, what: str) -> DataError:
    return DataError(what, where=f"{path}:{number}", fix=f"delete it, and {FIX} again")
