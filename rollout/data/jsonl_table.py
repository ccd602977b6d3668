"""A jsonl file as a table. It is read once from end to end when it is opened: every mistake in it is found then, with
its line. Only the start of each row is kept in memory; rows are read on demand.
"""

import hashlib
import json
import math
import os
from array import array
from collections.abc import Iterator, KeysView
from pathlib import Path
from typing import BinaryIO, NoReturn

from isentrope.errors import DataError
from isentrope.rollout.data.table import Check, require_columns

MAX_LINE_BYTES = 16 << 20
"""Maximum length of a line of a jsonl file; a longer one is refused without reading on."""

BOM = b"\xef\xbb\xbf"


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
            self._require_same(file)
            file.seek(self._start[index])
            return self._parse(file.readline(), self._line[index])

    def _require_same(self, file: BinaryIO) -> None:
        """Raise DataError unless the file holds what it held; one that was only touched or copied does."""
        state = _state(file)
        if state == self._state:
            return
        with self._path.open("rb") as whole:
            digest = hashlib.file_digest(whole, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
        if digest != self.digest:
            raise DataError(f"{self._path} changed while it was in use", fix="start the run again")
        self._state = state

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
            content = line.removeprefix(BOM) if number == 1 else line
            if content.strip():
                row = self._parse(content, number)
                self._columns = self._columns or row.keys()
                require_columns(row, self._columns, self._where(number))
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

    def _parse(self, line: bytes, number: int) -> dict[str, object]:
        try:
            row: object = DECODER.decode(line.decode())
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


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"{text} is larger than any number here")
    return number


DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_refuse, parse_float=_finite)
"""Decoder of JSON that refuses what cannot be kept as it is."""
