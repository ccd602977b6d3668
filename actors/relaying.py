"""An actor's part in passing versions on: it offers its machine's cache to other actors, and knows those that do."""

import contextlib
import ipaddress
import logging
import random
import re
import socket
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from isentrope.errors import IsentropeError, UnreachableError
from isentrope.rollout.broker.relay_list import RelayList
from isentrope.rollout.depot.access import Access
from isentrope.rollout.depot.interface import Depot
from isentrope.rollout.depot.relays import DEADLINES, MAX_TRIED, in_cache, token_of_relays
from isentrope.rollout.depot.remote_depot import RemoteDepot
from isentrope.rollout.depot.server import Address, DepotServer
from isentrope.rollout.wire.digests import file_name

AVOID_S = 600.0
"""Time for which a relay that has failed is not tried again."""

_URL = re.compile(r"http://[A-Za-z0-9.:\[\]-]{1,255}:[0-9]{1,5}")

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Offer:
    """The versions that an actor offers, and where. cache: folder of its machine's versions. token: the depot's, from
    which that of relays follows. address: of this machine, at which others reach it; empty: nothing is offered."""

    cache: Path
    token: str
    address: str
    port: int


class Relaying:
    """The relays of one run, as an actor sees them. It listens from its first version on. For any thread."""

    def __init__(self, listed: RelayList, offer: Offer) -> None:
        self._listed = listed
        self._offer = offer
        self._access = Access(token_of_relays(offer.token))
        self._lock = threading.Lock()
        self._serving = contextlib.ExitStack()
        self._url: str | None = None
        """Its own; empty: it cannot listen; None: it has not tried to."""
        self._avoided: dict[str, float] = {}

    def having(self, digest: str) -> Sequence[Depot]:
        """Tell others that this machine has, or begins to fetch, the version with this digest; return relays that had
        it before, chosen by chance."""
        try:
            urls = self._listed.enter(self._listen(), file_name(digest))
        except IsentropeError as error:
            logger.warning("no relays are used: %s", error.what)
            return ()
        usable = [url for url in urls if self._is_usable(url)]
        chosen = random.sample(usable, min(len(usable), MAX_TRIED))
        return [RemoteDepot(url, self._access, DEADLINES) for url in chosen]

    def avoid(self, url: str) -> None:
        """Return a relay no more for a while: it failed."""
        self._avoided[url] = time.monotonic()

    def close(self) -> None:
        """Offer nothing any more."""
        with self._lock:
            url, self._url = self._url, ""
        if url:
            try:
                self._listed.withdraw(url)
            except IsentropeError as error:
                logger.warning("%s stays listed as a relay: %s", url, error.what)
        self._serving.close()

    def _listen(self) -> str:
        """Return the URL at which this actor offers its machine's versions; empty: it does not."""
        with self._lock:
            if self._url is None:
                self._url = self._started() if self._offer.address else ""
            return self._url

    def _started(self) -> str:
        offer = self._offer
        if not self._access.token and not ipaddress.ip_address(offer.address).is_loopback:
            logger.warning("nothing is offered to others: whoever reaches %s could read the weights", offer.address)
            return ""
        address = Address(offer.address, offer.port)
        server = DepotServer(offer.cache, address, self._access.token, place=in_cache, shared=offer.port > 0)
        try:
            return self._serving.enter_context(server).url
        except UnreachableError as error:
            logger.warning("nothing is offered to others: %s", error.what)
            return ""

    def _is_usable(self, url: str) -> bool:
        """Return True for a URL of the form that relays have, unless it has failed lately: any actor may list any."""
        since = self._avoided.get(url)
        return _URL.fullmatch(url) is not None and (since is None or time.monotonic() - since > AVOID_S)


def address_towards(url: str) -> str:
    """Return the address of this machine that its packets to the broker at `url` have; empty: it has none there."""
    parts = urlsplit(url)
    if not parts.hostname:  # a unix socket
        return ""
    try:
        found = socket.getaddrinfo(parts.hostname, parts.port or 6379, type=socket.SOCK_DGRAM)
        family, kind, protocol, _, place = found[0]
        with socket.socket(family, kind, protocol) as one:
            one.connect(place)  # nothing is sent
            return str(one.getsockname()[0])
    except OSError:  # no route: the connection to the broker tells more
        return ""
