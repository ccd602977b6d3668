"""Data files that are kept in memory as a whole: csv, and json that is one list."""

import csv
import hashlib
import io
from pathlib import Path

from isentrope.errors import DataError
from isentrope.rollout.data.jsonl_table import BOM, DECODER
from isentrope.rollout.data.table import Check, require_columns

_FORM = 'write [{"prompt": "...", "answer": "..."}, ...]'

MAX_CELL_BYTES = 16 << 20
"""Maximum length of a cell of a csv file."""


class JsonTable:
    """A json file that holds one list of objects, all with the same keys."""

    def __init__(self, path: Path, check: Check) -> None:
        self._path = path
        content, self.digest = _read(path)
        try:
            rows: object = DECODER.decode(content)
        except (ValueError, RecursionError) as error:
            raise DataError(
                f"not valid JSON: {error}", where=str(path), fix="a file of one object per line is called .jsonl"
            ) from error
        if not isinstance(rows, list):
            raise DataError(
                f"the file holds a {type(rows).__name__}, not a list of objects",
                where=str(path),
                fix=_FORM,
            )
        self._rows: list[dict[str, object]] = rows
        for index, row in enumerate(rows):
            if not isinstance(row, dict):
                raise DataError(f"the row is a {type(row).__name__}, not an object", where=self.where(index), fix=_FORM)
            require_columns(row, rows[0].keys(), self.where(index))
            check(row, self.where(index))

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> dict[str, object]:
        return self._rows[index]

    def where(self, index: int) -> str:
        return f"{self._path}, row {index}"


class CsvTable:
    """A csv file whose first line names the columns; every value is text."""

    def __init__(self, path: Path, check: Check) -> None:
        self._path = path
        content, self.digest = _read(path)
        csv.field_size_limit(MAX_CELL_BYTES)
        reader = csv.reader(io.StringIO(content, newline=""), strict=True)
        self._columns: list[str] = []
        self._cells: list[list[str]] = []
        self._lines: list[int] = []
        line = 1
        try:
            for cells in reader:
                self._take(cells, line, check)
                line = reader.line_num + 1
        except csv.Error as error:
            raise DataError(
                f"not valid csv: {error}",
                where=f"{path}:{line}",
                fix="put a value with quotes or line ends into quotes, and double the quotes in it",
            ) from error

    def __len__(self) -> int:
        return len(self._cells)

    def __getitem__(self, index: int) -> dict[str, object]:
        return dict(zip(self._columns, self._cells[index], strict=True))

    def where(self, index: int) -> str:
        return f"{self._path}:{self._lines[index]}"

    def _take(self, cells: list[str], line: int, check: Check) -> None:
        if not cells:
            return  # a blank line
        where = f"{self._path}:{line}"
        if not self._columns:
            if twice := [name for name in cells if cells.count(name) > 1]:
                raise DataError(f"column {twice[0]!r} occurs twice", where=where, fix="rename one of them")
            self._columns = cells
            return
        if len(cells) != len(self._columns):
            raise DataError(
                f"the row has {len(cells)} values, and there are {len(self._columns)} columns",
                where=f"{where} (columns: {', '.join(self._columns)})",
                fix='put a value that contains commas into quotes, "..."',
            )
        self._cells.append(cells)
        self._lines.append(line)
        check(self[len(self) - 1], where)


def _read(path: Path) -> tuple[str, str]:
    """Return a file's text and the digest of its bytes."""
    content = path.read_bytes()
    try:
        text = content.removeprefix(BOM).decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"not UTF-8: byte 0x{content[error.start]:02x}",
            where=f"{path}:{line}",
            fix=f"convert it, for example: iconv -f latin1 -t utf-8 {path.name}",
        ) from error
    return text, hashlib.blake2b(content, digest_size=16).hexdigest()
