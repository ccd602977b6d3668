"""Files of JSON lines that can be taken back: each line is about one batch, and batches may be trained again."""

import contextlib
import json
import logging
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Generic, TypeVar

from pydantic import BaseModel, ValidationError

from isentrope.errors import StorageError
from isentrope.learner import json_files
from isentrope.learner.json_files import FileRecord
from isentrope.rollout.wire.files import write_whole

F = TypeVar("F", bound=FileRecord)
P = TypeVar("P", bound=BaseModel)

logger = logging.getLogger(__name__)


class _Numbered(BaseModel):
    """The number of any line: the rest is read, and not kept."""

    batch: int


class Journal(Generic[F]):
    """The lines of one kind in a run folder."""

    def __init__(self, folder: Path, kind: type[F]) -> None:
        self._folder = folder
        self._kind = kind
        self._path = folder / kind.FILE
        self._late: list[str] = []

    def rewind(self, batch: int) -> None:
        """Remove lines of later batches, which will be trained again, and those that cannot be read; -1: all lines. A
        file that cannot be read at all is put aside.

        Raises:
            StorageError: the file cannot be replaced.
        """
        if not os.path.lexists(self._path):
            return
        try:
            if (lines := self._readable()) is None:
                json_files.put_aside(self._path)
                return
            kept = [line for line in lines if _batch(line) <= batch]
            write_whole(self._path, b"".join(line + b"\n" for line in kept), durable=False)
        except OSError as error:
            raise StorageError(
                f"{self._path.name} cannot be rewritten: {error.strerror}", where=str(self._path)
            ) from None

    def _readable(self) -> list[bytes] | None:
        """Return the lines; None: the system does not give them."""
        try:
            return self._path.read_bytes().splitlines()
        except OSError as error:
            logger.warning("%s cannot be read: %s", self._path, error.strerror)
            return None

    def rows(self) -> list[F]:
        """Return every line that can be read, oldest first."""
        return list(json_files.read_lines(self._folder, self._kind))

    def ends(self, count: int) -> list[F]:
        """Return the first line and the last `count`, without those that cannot be read."""
        lines = self._lines()
        return self._parsed([*lines[: min(1, max(0, len(lines) - count))], *lines[-count:]])

    def parts(self, kind: type[P]) -> Iterator[P]:
        """Yield of each line what `kind`, with some of its keys, has: whole records take a hundred times as long."""
        for line in self._lines():
            with contextlib.suppress(ValidationError):
                yield kind.model_validate_json(line)

    def _lines(self) -> list[bytes]:
        return self._path.read_bytes().splitlines() if self._path.exists() else []

    def _parsed(self, lines: Iterable[bytes]) -> list[F]:
        return list(json_files.records(self._kind, ((str(self._path), line) for line in lines)))

    def append(self, row: F) -> None:
        """Add a line; it is whole on the disk when this returns. A line that the disk refuses costs nothing else: it is
        written with the next one."""
        self._late.append(json.dumps(row.to_json()) + "\n")
        try:
            self._write("".join(self._late))
        except OSError as error:
            logger.warning("%s cannot be written: %s; %d lines wait", self._path, error.strerror, len(self._late))
        else:
            self._late.clear()

    def _write(self, text: str) -> None:
        """Add all of a text to the file, or nothing."""
        with self._path.open("ab", buffering=0) as file:
            end = file.seek(0, os.SEEK_END)
            try:
                data = memoryview(text.encode())
                while data:
                    data = data[file.write(data) :]
                os.fsync(file.fileno())
            except OSError:
                file.truncate(end)
                raise


def _batch(line: bytes) -> int:
    """Return the batch of a line; one that was cut off, or is not a record, counts as later than all."""
    try:
        return _Numbered.model_validate_json(line).batch
    except ValidationError:
        return 1 << 62
