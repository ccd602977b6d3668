"""Folders that all processes of a machine share, each made once: one process makes it, the others wait.

A folder is made under its name plus `.part` and renamed when it is complete. Locks are those of the folder itself
(`flock`), so that they end with their process and leave no files: exclusive while it is made or deleted, shared while
it is used.
"""

import contextlib
import fcntl
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from isentrope.errors import StorageError, UnreachableError
from isentrope.long_waits import waiting_for

PART = ".part"
"""Suffix of a folder that is not complete."""

STILL_S = 120.0
"""Time without a new byte after which a process that waits for another's fetch gives up."""

POLL_S = 0.1


class Cache:
    """The folders of one kind."""

    def __init__(self, root: Path, *, keep: int) -> None:
        """Keep the `keep` newest folders below `root`, beside those in use."""
        self._root = root
        self._keep = keep

    def forget(self, name: str) -> None:
        """Delete a folder whose content has turned out to be damaged; one in use stays."""
        lock = _lock(self._root / name, fcntl.LOCK_EX)
        if lock is not None:
            _delete(self._root / name)
            os.close(lock)

    @contextlib.contextmanager
    def entry(self, name: str, make: Callable[[Path], None]) -> Iterator[Path]:
        """Yield the folder `name`, which stays while the block runs.

        Args:
            name: what the folder holds, by its digest.
            make: fills the given folder, in which an earlier try may have left something, with the content. What it
                raises is raised here.

        Raises:
            UnreachableError: another process makes the folder, and nothing has come for `STILL_S`.
            StorageError: the folder cannot be created.
        """
        final = self._root / name
        lock = _lock(final, fcntl.LOCK_SH)
        while lock is None:
            self._make(final, make)
            lock = _lock(final, fcntl.LOCK_SH)
        try:
            with contextlib.suppress(OSError):
                os.utime(final)
            self._prune(final)
            yield final
        finally:
            os.close(lock)

    def _make(self, final: Path, make: Callable[[Path], None]) -> None:
        part = final.with_name(final.name + PART)
        try:
            part.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(
                f"{part} cannot be created: {error.strerror}", fix="give another folder by --cache"
            ) from None
        with waiting_for(f"another process of this machine, which fetches {final.name}"):
            lock = self._wait(part)
        if lock is None:
            return
        try:
            if not final.exists():
                make(part)
                part.rename(final)
            else:
                shutil.rmtree(part, ignore_errors=True)
        finally:
            os.close(lock)

    def _wait(self, part: Path) -> int | None:
        """Return the exclusive lock of the unfinished folder; None: it has become the final one, or is gone."""
        size, since = -1, time.monotonic()
        while part.is_dir():
            if (lock := _lock(part, fcntl.LOCK_EX)) is not None:
                return lock
            if (now := _size(part)) != size:
                size, since = now, time.monotonic()
            if time.monotonic() - since > STILL_S:
                raise UnreachableError(
                    f"another process of this machine fetches {part.name}, and nothing has come for {STILL_S:.0f} s",
                    where=str(part),
                )
            time.sleep(POLL_S)
        return None

    def _prune(self, used: Path) -> None:
        """Delete what is neither in use nor among the newest, and what dead processes have left unfinished."""
        found = {path: time_of for path in self._root.iterdir() if (time_of := _time(path)) is not None}
        done = sorted((path for path in found if path.suffix != PART), key=found.__getitem__, reverse=True)
        parts = [path for path in found if path.suffix == PART and found[path] < found.get(used, 0.0)]
        for path in (*done[self._keep :], *parts):
            lock = _lock(path, fcntl.LOCK_EX) if path != used else None
            if lock is not None:
                _delete(path)
                os.close(lock)


def _lock(folder: Path, kind: int) -> int | None:
    """Return a lock of the folder that has this name now; None: there is none, or another process holds it."""
    try:
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return None
    with contextlib.suppress(OSError):
        fcntl.flock(lock, kind | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(lock), folder.stat()):
            return lock
    os.close(lock)
    return None


def _delete(folder: Path) -> None:
    """Delete a locked folder. It loses its name first: half of it must not look like the whole."""
    former = folder if folder.suffix == PART else folder.with_name(f"{folder.name}.old{PART}")
    with contextlib.suppress(OSError):
        folder.rename(former)
        shutil.rmtree(former, ignore_errors=True)


def _time(folder: Path) -> float | None:
    try:
        return folder.stat().st_mtime
    except OSError:
        return None


def _size(folder: Path) -> int:
    """Return the bytes of the files in a folder that changes meanwhile."""
    total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):
            total += path.stat().st_size
    return total
