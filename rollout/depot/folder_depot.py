"""A depot that is a folder of this machine or of a shared file system; its files are used where they lie."""

import contextlib
import os
import shutil
from pathlib import Path

from isentrope.errors import StorageError
from isentrope.rollout.depot.interface import checked_name
from isentrope.rollout.wire.files import replacing


class FolderDepot:
    """Files below one folder."""

    def __init__(self, root: Path) -> None:
        self._root = root.absolute()

    @property
    def url(self) -> str:
        """URL of the folder."""
        return f"file://{self._root}"

    @property
    def is_here(self) -> bool:
        """True if this machine sees the folder."""
        return self._root.is_dir()

    def put(self, file: Path, name: str) -> None:
        """Link the file, or copy it where the file system has no links; nothing happens if it lies there already."""
        place = self._root / checked_name(name)
        if place == file.absolute():
            return
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            with replacing(place, durable=True) as unfinished:
                _link(file, unfinished)
        except OSError as error:
            raise StorageError(f"{place} cannot be written: {error.strerror or error}", where=self.url) from None

    def read(self, name: str, start: int, end: int) -> bytes:
        """Return the bytes from `start` up to `end`, fewer where the file ends."""
        place = self._root / checked_name(name)
        try:
            with place.open("rb") as file:
                file.seek(start)
                return file.read(end - start)
        except OSError as error:
            raise StorageError(f"{name} cannot be read: {error.strerror}", where=self.url) from None

    def names(self, prefix: str) -> list[str]:
        """Return the names of the files below the folder `prefix`."""
        files = (path for path in (self._root / prefix).rglob("*") if path.is_file())
        return sorted(str(path.relative_to(self._root)) for path in files)

    def drop(self, name: str) -> None:
        """Delete a file, and its folder when it was the last."""
        place = self._root / checked_name(name)
        with contextlib.suppress(OSError):
            place.unlink()
            place.parent.rmdir()

    def path(self, name: str) -> Path | None:
        """Return where the file lies."""
        return self._root / checked_name(name)


def _link(file: Path, place: Path) -> None:
    place.unlink(missing_ok=True)
    try:
        os.link(file, place)
    except OSError:  # another file system, or one without links
        shutil.copyfile(file, place)
