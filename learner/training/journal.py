"""Files of JSON lines that can be taken back: each line is about one batch, and batches may be trained again."""

import json
import os
from pathlib import Path
from typing import Generic, TypeVar

from isentrope.learner import json_files
from isentrope.learner.json_files import FileRecord
from isentrope.rollout.wire.files import write_whole

F = TypeVar("F", bound=FileRecord)


class Journal(Generic[F]):
    """The lines of one kind in a run folder."""

    def __init__(self, folder: Path, kind: type[F]) -> None:
        self._folder = folder
        self._kind = kind
        self._path = folder / kind.FILE

    def rewind(self, batch: int) -> None:
        """Remove lines of later batches, which will be trained again; -1: all lines."""
        if not self._path.exists():
            return
        lines = self._path.read_text(encoding="utf-8").splitlines()
        kept = [line for line in lines if _batch(line) <= batch]
        write_whole(self._path, "".join(line + "\n" for line in kept), durable=False)

    def rows(self) -> list[F]:
        """Return every line, oldest first."""
        return list(json_files.read_lines(self._folder, self._kind))

    def append(self, row: F) -> None:
        """Add a line; it is whole on the disk when this returns."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row.to_json()) + "\n")
            file.flush()
            os.fsync(file.fileno())


def _batch(line: str) -> int:
    """Return the batch of a line; one that was cut off counts as later than all."""
    try:
        return int(json.loads(line)["batch"])
    except (ValueError, KeyError):
        return 1 << 62
