"""One published file, fetched in ranges and verified while it is written."""

import contextlib
import errno
import logging
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from isentrope.errors import IsentropeError, StorageError, UnreachableError
from isentrope.rollout.depot.interface import Depot
from isentrope.rollout.wire.digests import algorithm_of, digest_text, new_hasher

RANGE_BYTES = 8 << 20
FIRST_RANGE_BYTES = 256 << 10
LEAST_RANGE_BYTES = 64 << 10
"""Most bytes of one request, those of the first, and those of one on a slow link."""

QUICK_S, SLOW_S = 0.5, 2.0
"""Time of a request below which the next asks for twice as much, and above which for half."""


logger = logging.getLogger(__name__)


class FetchStopped(UnreachableError):
    """The process that fetched is leaving."""


@dataclass(frozen=True, slots=True)
class Promised:
    """A published file as its publisher states it."""

    name: str
    size_bytes: int
    digest: str


class Source(Protocol):
    """Places besides the depot that have its files, whose content is not to be believed."""

    def read(self, name: str, start: int, end: int) -> bytes:
        """Return bytes as `Depot.read`, from any of them or from the depot."""
        ...

    def discredit(self) -> bool:
        """Stop reading from those that gave bytes of the last file, which was wrong; return False if none did."""
        ...


def fetch(
    depot: Depot,
    file: Promised,
    place: Path,
    stopped: Callable[[], bool] = lambda: False,
    source: Source | None = None,
) -> None:
    """Write the promised content to `place`; what an earlier try has left there is continued.

    Content that came from another `source` than the depot, or was left, and is not what was promised, is fetched once
    more, from the depot alone.

    Raises:
        StorageError: the content is not what was promised, and `place` is gone; or the disk is full.
        UnreachableError: the depot does not answer; FetchStopped: `stopped` returned True. What came stays.
        AccessError: the depot refuses the credentials.
    """
    try:
        was_begun = place.exists()
        wrong = _write(source.read if source is not None else depot.read, file, place, stopped)
        if wrong and ((source is not None and source.discredit()) or was_begun):
            logger.warning("%s; it is fetched once more", wrong)
            wrong = _write(depot.read, file, place, stopped)
        if wrong:
            raise StorageError(wrong, where=depot.url)
    except IsentropeError:
        raise  # some are an OSError too
    except OSError as error:
        raise _cannot_write(place, error) from None


def _write(read: Callable[[str, int, int], bytes], file: Promised, place: Path, stopped: Callable[[], bool]) -> str:
    """Return in what the content differs, which then is deleted; empty: it is as promised."""
    algorithm = algorithm_of(file.digest)
    hasher, have, pace = new_hasher(algorithm), 0, _Pace()
    place.parent.mkdir(parents=True, exist_ok=True)
    with place.open("a+b") as content:
        content.seek(0)
        while part := content.read(min(RANGE_BYTES, file.size_bytes + 1 - have)):  # one more: it may be too long
            hasher.update(part)
            have += len(part)
        while have < file.size_bytes:
            if stopped():
                raise FetchStopped(f"{file.name} is not fetched to its end: this process leaves")
            with pace.kept():
                part = read(file.name, have, min(have + pace.range_bytes, file.size_bytes))
            if not part:
                break
            content.write(part)
            content.flush()  # others may read it already
            hasher.update(part)
            have += len(part)
    digest = digest_text(hasher, algorithm)
    if have != file.size_bytes or digest != file.digest:
        place.unlink()
        return _difference(file, have, digest)
    return ""


class _Pace:
    """Bytes of the next request: as many as take about a second, since a lost connection loses all of them."""

    def __init__(self) -> None:
        self.range_bytes = min(FIRST_RANGE_BYTES, RANGE_BYTES)

    @contextlib.contextmanager
    def kept(self) -> Iterator[None]:
        """Count the time of a request."""
        began = time.monotonic()
        yield
        took_s = time.monotonic() - began
        if took_s < QUICK_S:
            self.range_bytes = min(2 * self.range_bytes, RANGE_BYTES)
        elif took_s > SLOW_S:
            self.range_bytes = max(self.range_bytes // 2, min(LEAST_RANGE_BYTES, RANGE_BYTES))


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
