"""A run's published files over HTTP, read only, for machines that do not share its folder.

Only names of published files are answered (`interface.py`), in whole or in ranges; there are no listings and no other
methods. With a token, everything but a request that carries it is refused.
"""

import asyncio
import hashlib
import hmac
import logging
import os
import ssl
import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from isentrope.errors import ConfigError, UnreachableError
from isentrope.long_waits import waiting_for
from isentrope.rollout.depot.interface import is_name

if TYPE_CHECKING:
    from aiohttp import web

START_TIMEOUT_S = 30.0

CLOSE_TIMEOUT_S = 2.0
"""Time that transfers have to end when the server does."""

logger = logging.getLogger(__name__)


def token_of(password: str, run: str) -> str:
    """Return the token of a run's depot, which both sides derive from the broker's password; empty: no password."""
    if not password:
        return ""
    return hmac.new(password.encode(), f"isentrope depot {run}".encode(), hashlib.sha256).hexdigest()


@dataclass(frozen=True, slots=True)
class Address:
    """Address to listen at. cert_file, key_file: certificate and key in PEM, for HTTPS; empty: HTTP."""

    host: str
    port: int
    cert_file: str = ""
    key_file: str = ""

    @classmethod
    def parse(cls, text: str, cert_file: str = "", key_file: str = "") -> Self:
        """Return the address that `text` says as ADDR:PORT; ConfigError if it says none."""
        host, _, port = text.rpartition(":")
        if not host or not port.isdecimal() or int(port) > 65535:
            raise ConfigError(f"{text!r} is not ADDR:PORT", fix="such as 10.0.0.1:8800")
        return cls(host.strip("[]"), int(port), cert_file, key_file)

    @property
    def scheme(self) -> str:
        """`http` or `https`."""
        return "https" if self.cert_file else "http"

    def tls(self) -> ssl.SSLContext | None:
        """Return the settings of TLS; None: HTTP. ConfigError if the files cannot be read."""
        if not self.cert_file:
            return None
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        try:
            context.load_cert_chain(self.cert_file, self.key_file or None)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(f"the certificate {self.cert_file} cannot be used: {error}") from None
        return context


class DepotServer:
    """A server in a thread of its own; a context manager."""

    def __init__(
        self,
        root: Path,
        address: Address,
        token: str,
        *,
        place: Callable[[Path, str], Path | None] | None = None,
        shared: bool = False,
    ) -> None:
        """Prepare to serve files below `root`.

        Args:
            root: their folder.
            address: where to listen.
            token: required of every request unless empty.
            place: returns where the file of a name lies below `root`, or will; None: not here. Unset: where a depot
                has it.
            shared: other processes of this user may serve the same at the same address.
        """
        self._root = root
        self._place = place or _published
        self._shared = shared
        self._address = address
        self._token = token
        self._loop = asyncio.new_event_loop()
        self._end = asyncio.Event()
        self._ready = threading.Event()
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="depot", daemon=True)
        self.port = 0
        """Port it listens at."""

    def __enter__(self) -> Self:
        """Start it; UnreachableError if the address cannot be used."""
        self._thread.start()
        with waiting_for(f"the depot to listen at {self._address.host}:{self._address.port}"):
            self._ready.wait(START_TIMEOUT_S)
        if self._error is not None:
            raise UnreachableError(
                f"the depot cannot listen at {self._address.host}:{self._address.port}: {self._error}",
                fix="choose a free port, and an address of this machine",
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._end.set)
        with waiting_for(f"the depot at {self.url} to end"):
            self._thread.join(START_TIMEOUT_S)

    @property
    def url(self) -> str:
        """Its URL."""
        host = f"[{self._address.host}]" if ":" in self._address.host else self._address.host
        return f"{self._address.scheme}://{host}:{self.port}"

    @property
    def runs(self) -> bool:
        """True until it has ended."""
        return self._thread.is_alive()

    def wait(self, timeout_s: float) -> None:
        """Wait for its end, `timeout_s` at most."""
        self._thread.join(timeout_s)

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            try:
                runner.run(self._serve())
            except Exception as error:  # whatever it is, `__enter__` raises it in the thread that asked
                self._error = error
        self._ready.set()

    async def _serve(self) -> None:
        from aiohttp import web

        application = web.Application()
        application.router.add_get("/{name:.+}", self._answer)  # HEAD too; every other method is refused
        runner = web.AppRunner(application, access_log=None, shutdown_timeout=CLOSE_TIMEOUT_S)
        await runner.setup()
        try:
            address, tls = self._address, self._address.tls()
            site = web.TCPSite(runner, address.host, address.port, ssl_context=tls, reuse_port=self._shared or None)
            await site.start()
            self.port = int(runner.addresses[0][1])
            self._ready.set()
            await self._end.wait()
        finally:
            await runner.cleanup()

    async def _answer(self, request: "web.Request") -> "web.StreamResponse":
        from aiohttp import web

        if not self._may(request.headers.get("Authorization", "")):
            raise web.HTTPUnauthorized(headers={"WWW-Authenticate": "Bearer"})
        name = request.match_info["name"]
        place = await asyncio.to_thread(self._place, self._root, name)
        if place is None:
            raise web.HTTPNotFound
        try:
            opened = await asyncio.to_thread(os.open, place, os.O_RDONLY)
        except OSError:
            raise web.HTTPRequestRangeNotSatisfiable from None  # none of its bytes is here yet
        response = web.FileResponse(Path(f"/proc/self/fd/{opened}"))  # its folder may be renamed meanwhile
        weakref.finalize(response, os.close, opened)
        return response

    def _may(self, authorization: str) -> bool:
        return not self._token or hmac.compare_digest(
            authorization.encode(errors="surrogateescape"), f"Bearer {self._token}".encode()
        )


def _published(root: Path, name: str) -> Path | None:
    """Return the path of a published file, unless a link of its path leads out of the folder; None: there is none."""
    place = root / name
    is_own = is_name(name) and place.is_file() and place.resolve().is_relative_to(root.resolve())
    return place if is_own else None
