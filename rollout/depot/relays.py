"""Relays: machines that offer to others the versions in their caches, while they fetch them too.

The depot then sends few copies: one machine fetches from it, and the others from those that were before them. Nothing
is believed of a relay. Each file is compared with the digest that the run states, and fetched from the depot itself
where it differs. A relay is left that says nothing for `STILL_S`, answers with an error, or is far slower than the
depot; after `MAX_TRIED` of them a version is fetched from the depot alone. So a relay that lies, hangs, dies or is slow
costs time, and how much of it is bounded.
"""

import hashlib
import hmac
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from isentrope.errors import IsentropeError, StorageError, UnreachableError
from isentrope.rollout.depot.cache import PART
from isentrope.rollout.depot.fetching import FetchStopped
from isentrope.rollout.depot.interface import Depot, is_name
from isentrope.rollout.depot.remote_depot import Deadlines
from isentrope.rollout.wire.digests import file_name

DEADLINES = Deadlines(connect_s=2.0, silence_s=5.0, request_s=20.0)
"""Deadlines of a request to a relay; those to the depot are longer, because nothing takes its place."""

STILL_S = 5.0
"""Time without a new byte after which a relay is left."""

COMPARE_S = 10.0
"""Time with a relay after which one range is fetched from the depot, to compare the two."""

TIMES_FASTER = 2.0
"""Speed of the depot, relative to the relay's, above which the relay is left."""

MAX_TRIED = 3
"""Relays that are tried for one version."""

POLL_S = 0.1

logger = logging.getLogger(__name__)


class Relays(Protocol):
    """The relays of a run, of which this machine is one. No call raises."""

    def having(self, digest: str) -> Sequence[Depot]:
        """Tell others that this machine has, or begins to fetch, the version with this digest; return relays that
        have it, or fetch it, in the order in which they should be tried."""
        ...

    def avoid(self, url: str) -> None:
        """Return a relay no more for a while: it failed."""
        ...


class NoRelays:
    """Nobody is told, and nobody is known."""

    def having(self, digest: str) -> Sequence[Depot]:
        """Return none."""
        return ()

    def avoid(self, url: str) -> None:
        """Do nothing."""


def token_of_relays(token: str) -> str:
    """Return the token that relays ask for. It follows from the depot's, which no relay gets to see."""
    return hmac.new(token.encode(), b"isentrope relay", hashlib.sha256).hexdigest() if token else ""


def in_cache(root: Path, name: str) -> Path | None:
    """Return where a relay has a file of its cache `root`, or will have it; None: it neither has nor fetches the
    version.

    A relay's names are `weights/<digest>/<file>`, as those of the folders in the cache.
    """
    _, digest, file = name.split("/") if is_name(name) and name.count("/") == 2 else ("", "", "")
    # in the order in which a folder has its two names: it is renamed at any moment
    found = (folder / file for folder in (root / f"{digest}{PART}", root / digest) if digest and folder.is_dir())
    return next(found, None)


class RelayedVersion:
    """The files of one version: from relays while they are of use, else from the depot."""

    def __init__(
        self,
        depot: Depot,
        relays: Relays,
        digest: str,
        stopped: Callable[[], bool],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Tell others that this machine begins to fetch the version with this digest.

        stopped: ends a wait for a relay by FetchStopped.
        """
        self._depot = depot
        self._relays = relays
        self._folder = file_name(digest)
        self._stopped = stopped
        self._clock = clock
        self._left = list(relays.having(digest))[:MAX_TRIED]
        self._file = ""
        self._believed: list[str] = []
        self._bytes, self._seconds = 0, 0.0
        self.relayed = 0
        """Bytes that came from relays."""
        self.direct = 0
        """Bytes that came from the depot."""

    def read(self, name: str, start: int, end: int) -> bytes:
        """Return bytes of a file as `Depot.read`, with its errors, which are the depot's alone; FetchStopped."""
        if name != self._file:
            self._file, self._believed = name, []
        content = self._compared(name, start, end) if self._seconds > COMPARE_S else b""
        while not content and self._left:
            content = self._from_relay(self._left[0], name, start, end)
        return content or self._from_depot(name, start, end)

    def discredit(self) -> bool:
        """Stop reading from the relays that gave bytes of the last file; return False if none did."""
        for url in self._believed:
            self._relays.avoid(url)
        self._left = [relay for relay in self._left if relay.url not in self._believed]
        self._bytes, self._seconds = 0, 0.0
        return bool(self._believed)

    def _from_depot(self, name: str, start: int, end: int) -> bytes:
        content = self._depot.read(name, start, end)
        self.direct += len(content)
        return content

    def _compared(self, name: str, start: int, end: int) -> bytes:
        """Return bytes of the depot, and leave the relay if they came far faster; none: the depot has none now."""
        began = self._clock()
        try:
            content = self._from_depot(name, start, end)
        except UnreachableError:
            content = b""
        if len(content) * self._seconds > TIMES_FASTER * self._bytes * (self._clock() - began):
            logger.info("relay %s is left: the depot is faster", self._left[0].url)
            del self._left[0]
        self._bytes, self._seconds = 0, 0.0
        return content

    def _from_relay(self, relay: Depot, name: str, start: int, end: int) -> bytes:
        """Return what a relay has of these bytes, as soon as it has some; none: it is left."""
        began, theirs = self._clock(), f"weights/{self._folder}/{name.rpartition('/')[2]}"
        try:
            while not (content := relay.read(theirs, start, end)):
                if self._stopped():
                    raise FetchStopped(f"{name} is not fetched to its end: this process leaves")
                if self._clock() - began > STILL_S:
                    raise StorageError(f"{name}: nothing has come for {STILL_S:.0f} s", where=relay.url)
                time.sleep(POLL_S)
        except FetchStopped:
            raise
        except IsentropeError as error:
            logger.info("relay %s is left: %s", relay.url, error.what)
            self._relays.avoid(relay.url)
            del self._left[0]
            self._bytes, self._seconds = 0, 0.0
            return b""
        if relay.url not in self._believed:
            self._believed.append(relay.url)
        self._bytes, self._seconds = self._bytes + len(content), self._seconds + self._clock() - began
        self.relayed += len(content)
        return content
