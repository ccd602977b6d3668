"""A depot: the published files of a run, by URL. It moves bytes and knows neither weights nor runs.

Names have two parts (`bundle/<digest>.tar`, `model/<file>`) or three (`weights/<version>/<file>`, and
`weights/<digest>/<file>` at a machine that offers its cache), so that none leads out of the depot.
A version's `manifest.json` is put last: a version without it is not one.
"""

import re
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

from isentrope.errors import ConfigError, InternalError
from isentrope.rollout.depot.access import Access

SCHEMES = ("file", "http", "https", "s3", "gs")
"""Kinds of depots."""

READ_ONLY_SCHEMES = ("http", "https")
"""Kinds whose files can only be read: none is put, listed or dropped there."""

_PART = r"[A-Za-z0-9_][A-Za-z0-9._-]*"
_NAME = re.compile(rf"(weights/([0-9]{{1,19}}|[0-9a-f]{{64}})/{_PART}|(bundle|model)/{_PART})")


class Depot(Protocol):
    """Published files under one URL. Each call may be repeated.

    All raise:
        UnreachableError: it does not answer; a later try may succeed.
        AccessError: it refuses the credentials.
        StorageError: a file is not there, or cannot be written.
    """

    @property
    def url(self) -> str:
        """Its URL, without secrets."""
        ...

    def put(self, file: Path, name: str) -> None:
        """Publish the content of `file` under `name`."""
        ...

    def read(self, name: str, start: int, end: int) -> bytes:
        """Return the bytes from `start` up to `end`, fewer where the file ends."""
        ...

    def names(self, prefix: str) -> list[str]:
        """Return the names that begin with the folder `prefix`, sorted."""
        ...

    def drop(self, name: str) -> None:
        """Delete a file; nothing happens if it is not there."""
        ...

    def path(self, name: str) -> Path | None:
        """Return where a file lies on this machine; None: elsewhere."""
        ...


def open_depot(url: str, access: Access | None = None) -> Depot:
    """Return the depot at `url`: a folder, `file://…`, `http(s)://…` (read only), `s3://…` or `gs://…`.

    Raises:
        ConfigError: another kind of URL, one with a password in it, or a library is missing.
    """
    from isentrope.rollout.depot.folder_depot import FolderDepot

    check_url(url)
    parts = urlsplit(url)
    if parts.scheme in ("", "file"):
        return FolderDepot(Path(parts.path if parts.scheme else url))
    from isentrope.rollout.depot.remote_depot import RemoteDepot

    return RemoteDepot(url, access or Access())


def is_read_only(url: str) -> bool:
    """Return True if the depot at `url` is read only."""
    return url.partition(":")[0].lower() in READ_ONLY_SCHEMES


def check_url(url: str) -> None:
    """Raise ConfigError if `url` cannot be that of a depot."""
    try:
        parts = urlsplit(url)
    except ValueError:  # its text may quote a password
        raise ConfigError("the URL of a depot cannot be read", fix="check its host and its brackets") from None
    if parts.scheme and parts.scheme not in SCHEMES:
        raise ConfigError(
            f"a depot's URL begins with {', '.join(SCHEMES)}, not {parts.scheme}", fix="give one of these, or a folder"
        )
    if "@" in parts.netloc or parts.query:
        raise ConfigError(
            f"the URL of a depot holds credentials: {parts.scheme}://***@{parts.hostname or ''}",
            fix="leave them out: URLs are announced; see docs/cluster.md",
        )


def checked_name(name: str) -> str:
    """Return the name of a published file; InternalError if it has another form."""
    if not _NAME.fullmatch(name):
        raise InternalError(f"{name!r} is not the name of a published file")
    return name


def is_name(name: str) -> bool:
    """Return True if `name` has the form of a published file's."""
    return _NAME.fullmatch(name) is not None
