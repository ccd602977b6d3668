"""One published file, fetched in ranges and verified while it is written."""

import errno
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from isentrope.errors import IsentropeError, StorageError, UnreachableError
from isentrope.rollout.depot.interface import Depot
from isentrope.rollout.wire.digests import algorithm_of, digest_text, new_hasher

RANGE_BYTES = 8 << 20
"""Bytes of one request."""


class FetchStopped(UnreachableError):
    """The process that fetched is leaving."""


@dataclass(frozen=True, slots=True)
class Promised:
    """A published file as its publisher states it."""

    name: str
    size_bytes: int
    digest: str


def fetch(depot: Depot, file: Promised, place: Path, stopped: Callable[[], bool] = lambda: False) -> None:
    """Write the promised content to `place`; what an earlier try has left there is continued.

    Raises:
        StorageError: the content is not what was promised, and `place` is gone; or the disk is full.
        UnreachableError: the depot does not answer; FetchStopped: `stopped` returned True. What came stays.
        AccessError: the depot refuses the credentials.
    """
    try:
        _write(depot, file, place, stopped)
    except IsentropeError:
        raise  # some are an OSError too
    except OSError as error:
        raise _cannot_write(place, error) from None


def _write(depot: Depot, file: Promised, place: Path, stopped: Callable[[], bool]) -> None:
    algorithm = algorithm_of(file.digest)
    hasher, have = new_hasher(algorithm), 0
    place.parent.mkdir(parents=True, exist_ok=True)
    with place.open("a+b") as content:
        content.seek(0)
        while part := content.read(min(RANGE_BYTES, file.size_bytes + 1 - have)):  # one more: it may be too long
            hasher.update(part)
            have += len(part)
        while have < file.size_bytes:
            if stopped():
                raise FetchStopped(f"{file.name} is not fetched to its end: this process leaves")
            part = depot.read(file.name, have, min(have + RANGE_BYTES, file.size_bytes))
            if not part:
                break
            content.write(part)
            hasher.update(part)
            have += len(part)
        content.flush()
    digest = digest_text(hasher, algorithm)
    if have != file.size_bytes or digest != file.digest:
        place.unlink()
        raise StorageError(_difference(file, have, digest), where=depot.url)


def _difference(file: Promised, size: int, digest: str) -> str:
    if size != file.size_bytes:
        return f"{file.name} has another size: {size} bytes instead of {file.size_bytes} bytes"
    return f"{file.name} has another digest: {digest} instead of {file.digest}"


def _cannot_write(place: Path, error: OSError) -> StorageError:
    host = socket.gethostname()
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StorageError(
            f"the disk of {host} is full: {place.parent} cannot hold what is fetched",
            where=str(place),
            fix="free space, or give another folder by --cache",
        )
    return StorageError(f"{place} of {host} cannot be written: {error.strerror or error}", fix="give another --cache")
