"""Data files as tables of rows with random access.

A file is read once from end to end when it is opened: every mistake in it is found then, with its line. Of a jsonl file
only the start of each row is kept in memory; rows are read on demand.
"""

import hashlib
import json
import os
from array import array
from collections.abc import Callable, Iterator, KeysView, Mapping
from pathlib import Path
from typing import BinaryIO, NoReturn, Protocol

from isentrope.errors import DataError, nearest

MAX_LINE_BYTES = 16 << 20
"""Maximum length of a line of a jsonl file; a longer one is refused without reading on."""

SUPPORTED = (
    "give a .jsonl or .parquet file, or a built-in task such as task:digit_walk; "
    "save a data set of the Hugging Face hub with datasets' to_json or to_parquet first"
)

_BOM = b"\xef\xbb\xbf"


class Table(Protocol):
    """Rows by index. `digest` depends on the file's contents only."""

    @property
    def digest(self) -> str: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> dict[str, object]: ...

    def where(self, index: int) -> str:
        """Return the place of a row for messages."""
        ...


Check = Callable[[Mapping[str, object], str], object]
"""Called with every row and its place when a table is opened; raises if the row is invalid."""


def open_table(path: Path, check: Check) -> Table:
    """Return the table in `path`, by the ending of its name.

    Raises:
        DataError: the file is missing, unreadable, empty, of a kind not supported, or broken (then with the line).
    """
    kinds: dict[str, Callable[[Path, Check], Table]] = {".jsonl": JsonlTable, ".parquet": ParquetTable}
    if path.suffix not in kinds:
        raise DataError(f"{path.name!r} is neither a data file nor a task", where=str(path), fix=SUPPORTED)
    try:
        table = kinds[path.suffix](path, check)
    except FileNotFoundError as error:
        there = [file.name for file in path.parent.iterdir()] if path.parent.is_dir() else []
        close = nearest(path.name, there)
        fix = f"did you mean {close}?" if close else "relative paths start at the run file's folder"
        raise DataError(f"{path} does not exist", fix=fix) from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
    if not len(table):
        raise DataError(f"{path} has no rows", fix="give a file with at least one row")
    return table


class JsonlTable:
    """A file with one JSON object per line, all with the same keys; blank lines are ignored."""

    def __init__(self, path: Path, check: Check) -> None:
        self._path = path
        self._start = array("q")  # byte at which row i begins
        self._line = array("q")  # its number, from 1
        self._columns: KeysView[str] = {}.keys()
        with path.open("rb") as file:
            self._state = _state(file)
            self.digest = self._scan(file, check)

    def __len__(self) -> int:
        return len(self._line)

    def __getitem__(self, index: int) -> dict[str, object]:
        with self._path.open("rb") as file:
            if _state(file) != self._state:
                raise DataError(f"{self._path} changed while it was in use", fix="start the run again")
            file.seek(self._start[index])
            return self._parse(file.readline(), self._line[index])

    def where(self, index: int) -> str:
        return self._where(self._line[index])

    def _where(self, number: int) -> str:
        return f"{self._path}:{number}"

    def _scan(self, file: BinaryIO, check: Check) -> str:
        """Check every line, store its position, and return the digest."""
        digest = hashlib.blake2b(digest_size=16)
        start = 0
        for number, line in self._lines(file):
            digest.update(line)
            content = line.removeprefix(_BOM) if number == 1 else line
            if content.strip():
                row = self._parse(content, number)
                self._same_columns(row, number)
                check(row, self._where(number))
                self._start.append(start + len(line) - len(content))
                self._line.append(number)
            start += len(line)
        return digest.hexdigest()

    def _lines(self, file: BinaryIO) -> Iterator[tuple[int, bytes]]:
        number = 0
        while line := file.readline(MAX_LINE_BYTES + 1):
            number += 1
            if len(line) > MAX_LINE_BYTES:
                raise DataError(
                    f"a line is longer than {MAX_LINE_BYTES >> 20} MiB",
                    where=self._where(number),
                    fix="write one JSON object per line; a JSON array over several lines is not jsonl",
                )
            yield number, line

    def _same_columns(self, row: dict[str, object], number: int) -> None:
        self._columns = self._columns or row.keys()
        if row.keys() == self._columns:
            return
        missing, new = sorted(self._columns - row.keys()), sorted(row.keys() - self._columns)
        raise DataError(
            f"column {missing[0]!r} is missing" if missing else f"column {new[0]!r} is not in the first row",
            where=f"{self._where(number)} (columns of the first row: {', '.join(self._columns)})",
            fix="give every row the same columns, with null where one does not apply",
        )

    def _parse(self, line: bytes, number: int) -> dict[str, object]:
        try:
            row: object = _DECODER.decode(line.decode())
        except UnicodeDecodeError as error:
            raise DataError(
                f"not UTF-8: byte 0x{line[error.start]:02x} at position {error.start} of the line",
                where=self._where(number),
                fix=f"convert it, for example: iconv -f latin1 -t utf-8 {self._path.name}",
            ) from error
        except (ValueError, RecursionError) as error:
            raise DataError(
                f"not valid JSON: {error}", where=self._where(number), fix="write one JSON object per line"
            ) from error
        if not isinstance(row, dict):
            raise DataError(
                f"the line holds a {type(row).__name__}, not an object",
                where=self._where(number),
                fix='write one JSON object per line, such as {"prompt": "...", "answer": "..."}',
            )
        return row


def _state(file: BinaryIO) -> tuple[int, ...]:
    """Return values that change when a file is written to or replaced."""
    status = os.fstat(file.fileno())
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    row = dict(pairs)
    if len(row) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"key {twice!r} occurs twice")
    return row


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_refuse)


class ParquetTable:
    """A parquet file, kept in memory in Arrow's form."""

    def __init__(self, path: Path, check: Check) -> None:
        try:
            import pyarrow
            from pyarrow import parquet
        except ImportError as error:
            raise DataError(f"{path}: parquet needs pyarrow", fix="pip install 'isentrope[data]'") from error
        self._path = path
        with path.open("rb") as file:
            self.digest = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
        try:
            self._table = parquet.ParquetFile(path).read()
        except (pyarrow.ArrowException, OSError) as error:
            raise DataError(f"{path} is not a readable parquet file: {str(error).splitlines()[0]}") from error
        columns = self._table.column_names
        if twice := [name for name in columns if columns.count(name) > 1]:
            raise DataError(f"column {twice[0]!r} occurs twice", where=str(path))
        for index in range(len(self)):
            check(self[index], self.where(index))

    def __len__(self) -> int:
        return int(self._table.num_rows)

    def __getitem__(self, index: int) -> dict[str, object]:
        row: dict[str, object] = self._table.slice(index, 1).to_pylist()[0]
        return row

    def where(self, index: int) -> str:
        return f"{self._path}, row {index}"
