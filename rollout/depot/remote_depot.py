"""A depot on another machine, through fsspec: HTTP (read only), S3, Google Cloud Storage.

Content is read in ranges, so that what a lost connection has left is continued instead of fetched again.
"""

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from isentrope.errors import AccessError, ConfigError, IsentropeError, StorageError, UnreachableError
from isentrope.rollout.depot.access import Access
from isentrope.rollout.depot.interface import checked_name, is_read_only


@dataclass(frozen=True, slots=True)
class Deadlines:
    """Deadlines of a request over HTTP. connect_s: until there is a connection. silence_s: longest wait for the next
    byte. request_s: until its end; None: it may take as long as bytes come."""

    connect_s: float = 10.0
    silence_s: float = 30.0
    request_s: float | None = None


_EXTRAS = {"s3": "s3", "gs": "gs"}


class RemoteDepot:
    """Files below one URL."""

    def __init__(self, url: str, access: Access, deadlines: Deadlines | None = None) -> None:
        self._url = url.rstrip("/")
        self._files = _file_system(urlsplit(url).scheme, access, deadlines or Deadlines())

    @property
    def url(self) -> str:
        """Its URL."""
        return self._url

    def put(self, file: Path, name: str) -> None:
        """Upload a file; an object store shows it when it is whole."""
        self._refuse_if_read_only()
        self._call(name, lambda: self._files.put_file(str(file), self._place(name)))

    def read(self, name: str, start: int, end: int) -> bytes:
        """Return the bytes from `start` up to `end`, fewer where the file ends."""
        place = self._place(name)
        content: bytes = self._call(name, lambda: self._files.cat_file(place, start=start, end=end), past_end=b"")
        if len(content) > end - start:
            raise StorageError(f"the depot at {self._url} does not answer requests for a range of bytes")
        return content

    def names(self, prefix: str) -> list[str]:
        """Return the names of the files below the folder `prefix`; an HTTP server does not tell them."""
        self._refuse_if_read_only()
        root = self._files._strip_protocol(self._url)
        found = self._call(prefix, lambda: self._files.find(f"{self._url}/{prefix}"), past_end=[])
        return sorted(str(path).removeprefix(f"{root}/") for path in found)

    def drop(self, name: str) -> None:
        """Delete a file."""
        self._refuse_if_read_only()
        try:
            self._call(name, lambda: self._files.rm_file(self._place(name)))
        except StorageError:
            return  # it is not there

    def path(self, name: str) -> Path | None:
        """Return None: nothing lies on this machine."""
        return None

    def _place(self, name: str) -> str:
        return f"{self._url}/{checked_name(name)}"

    def _refuse_if_read_only(self) -> None:
        if is_read_only(self._url):
            raise StorageError(
                f"the depot at {self._url} is read only",
                fix="publish into the run's folder, which `isentrope depot` offers, or into an object store",
            )

    def _call(self, name: str, call: Any, past_end: Any = None) -> Any:
        """Return what `call` returns, its errors as ours; `past_end` where the file ends before what is asked."""
        try:
            return call()
        except FileNotFoundError:
            raise StorageError(f"{name} is not there", where=self._url) from None
        except Exception as error:  # of the network: each library has its own
            status = _status(error)
            if status == 416 and past_end is not None:
                return past_end
            raise self._translated(name, error, status) from None

    def _translated(self, name: str, error: Exception, status: int) -> IsentropeError:
        if status in (401, 403) or isinstance(error, PermissionError):
            return AccessError(
                f"the depot refuses {name}: {status or error}",
                where=self._url,
                fix="use the broker's password of the depot's side, or set ISENTROPE_DEPOT_TOKEN",
            )
        if "CERTIFICATE_VERIFY_FAILED" in str(error):
            return AccessError(
                f"the certificate of the depot is not trusted for {name}",
                where=self._url,
                fix="give its authority by --ca, and the host as the certificate names it",
            )
        reason = f"HTTP status {status}" if status else f"{type(error).__name__}: {error}".partition("\n")[0][:200]
        return UnreachableError(f"the depot does not answer for {name}: {reason}", where=self._url)


def _status(error: Exception) -> int:
    """Return the HTTP status of an error; 0: it has none."""
    response = getattr(error, "response", None)
    meta = response.get("ResponseMetadata", {}) if isinstance(response, dict) else {}
    cause = error.__cause__
    inner = _status(cause) if isinstance(cause, Exception) else 0
    status = getattr(error, "status", 0) or meta.get("HTTPStatusCode", 0) or inner
    return status if isinstance(status, int) else 0


def _file_system(scheme: str, access: Access, deadlines: Deadlines) -> Any:
    fsspec: Any = importlib.import_module("fsspec")  # it comes without annotations
    try:
        if scheme in _EXTRAS:
            return fsspec.filesystem(scheme, use_listings_cache=False)
        import aiohttp
    except ImportError as error:
        extra = _EXTRAS.get(scheme, "actor")
        raise ConfigError(
            f"a depot of {scheme}: needs a library that is not installed: {error.name}",
            fix=f"pip install 'isentrope[{extra}]'",
        ) from error
    timeout = aiohttp.ClientTimeout(
        total=deadlines.request_s, sock_connect=deadlines.connect_s, sock_read=deadlines.silence_s
    )
    headers = {"Authorization": f"Bearer {access.token}"} if access.token else {}
    settings: dict[str, object] = {"client_kwargs": {"timeout": timeout, "headers": headers}}
    if scheme == "https":
        settings["ssl"] = access.tls()
    return fsspec.filesystem(scheme, skip_instance_cache=True, use_listings_cache=False, **settings)
