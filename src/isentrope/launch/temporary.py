"""Temporary folders that are gone when their process is, also if it was killed.

Each is locked as long as its process lives, and the kernel unlocks it with the end. Whoever makes another, and each
command at its end, deletes those of this user that nobody holds: sockets of an engine, and the files of a Ray.
"""

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from isentrope.environment import with_temporary_folder

_PREFIX = "isentrope."

SOCKET_PATH = 107
"""Longest path of a socket, in bytes."""

ENGINE_SOCKET = 37
"""Length of the name of an engine's socket, with the slash before it."""


@contextlib.contextmanager
def own_folder(use: str) -> Iterator[Path]:
    """Make a folder that is this process's alone, until the block ends; `use` is a part of its name."""
    delete_left()
    while True:
        folder = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{use}."))
        with _locked(folder) as is_mine:
            if not is_mine or not folder.exists():
                continue  # another has found it before it was locked
            try:
                yield folder
            finally:
                shutil.rmtree(folder, ignore_errors=True)
            return


@contextlib.contextmanager
def engine_folder() -> Iterator[None]:
    """Let an actor, and the engine and the rewards that it starts, put temporary files into a folder of its own. Where
    a socket's path would be too long, they go where those of all others go."""
    with own_folder("actor") as folder:
        if len(os.fsencode(folder)) + ENGINE_SOCKET > SOCKET_PATH:
            yield
            return
        with with_temporary_folder(folder):
            yield


def delete_left() -> None:
    """Delete the folders of processes that are gone."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*.*"):
        with contextlib.suppress(OSError):  # another's, or just deleted
            if folder.lstat().st_uid == os.getuid():
                with _locked(folder) as is_free:
                    if is_free:
                        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[bool]:
    """Hold the lock of a folder while the block runs; yield False if another process holds it."""
    place = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(place, fcntl.LOCK_EX | fcntl.LOCK_NB)
        is_free = True
    except BlockingIOError:
        is_free = False
    try:
        yield is_free
    finally:
        os.close(place)
