"""Files that are replaced whole: a reader finds the old content or all of the new, never a part.

New content is written beside the file, under its name plus `UNFINISHED`, and renamed. One process at a time may
write a file; what a killed one left behind is overwritten by the next.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

UNFINISHED = ".tmp"
"""Suffix of files and folders that are not complete yet."""


@contextlib.contextmanager
def replacing(path: Path, *, durable: bool) -> Iterator[Path]:
    """Yield the path to write to; at the end of the block it takes the place of `path`.

    If the block or the disk fails, `path` stays as it was and nothing lies beside it.

    Args:
        path: the file to write; its folder exists.
        durable: outlive a crash of the machine from the end of the block on, instead of that of the process alone.
    """
    unfinished = path.with_name(path.name + UNFINISHED)
    try:
        yield unfinished
        if durable:
            sync(unfinished)
        unfinished.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            unfinished.unlink()
        raise
    if durable:
        sync(path.parent)


def write_whole(path: Path, data: bytes | str, *, durable: bool) -> None:
    """Write a file by `replacing`; text becomes UTF-8."""
    with replacing(path, durable=durable) as unfinished:
        unfinished.write_bytes(data.encode() if isinstance(data, str) else data)


def sync(path: Path) -> None:
    """Return when a file's content, or a folder's entries, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
