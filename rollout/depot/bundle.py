"""The bundle of a run: one tar file with what an actor needs of the machine on which the run was started.

`run/` holds files of the run file's folder at their relative paths, `data/` data files that lie elsewhere, `model/` the
model's configuration and tokenizer. Equal content has equal bytes, hence one digest, which the run's spec states.
Unpacking trusts nothing but that digest: files and folders alone, below one folder, of bounded number and size.
"""

import os
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path

from isentrope.errors import ConfigError, StorageError
from isentrope.rollout.depot.fetching import Promised, fetch
from isentrope.rollout.depot.interface import Depot
from isentrope.rollout.wire.digests import digest_file, file_name
from isentrope.rollout.wire.files import replacing
from isentrope.rollout.wire.spec import Bundle

FOLDER = "bundle"
"""Folder of a depot that holds bundles."""

MAX_FILES = 20_000
MAX_BYTES = 64 << 30
"""Largest number of files and of bytes that are packed and unpacked."""

_SECRETS = (".*", "*.pem", "*.key", "id_*")
"""Names that are never packed, whatever the run file asks for."""


def bundle_name(digest: str) -> str:
    """Return the name of a bundle in a depot."""
    return f"{FOLDER}/{file_name(digest)}.tar"


def may_hold_secrets(path: Path) -> bool:
    """Return True if a file or one of its folders has a name that credentials usually have."""
    return any(Path(part).match(pattern) for part in path.parts for pattern in _SECRETS)


def pack(files: Mapping[str, Path], folder: Path) -> tuple[Path, str]:
    """Write the files under their names in the bundle into `<folder>/<digest>.tar`; return its path and digest.

    Raises:
        ConfigError: there are too many of them, or they are too large.
        StorageError: one cannot be read, or the bundle cannot be written.
    """
    size = sum(path.stat().st_size for path in files.values() if path.is_file())
    if len(files) > MAX_FILES or size > MAX_BYTES:
        raise ConfigError(
            f"the files that actors need are {len(files)} with {size} bytes; {MAX_FILES} with {MAX_BYTES} are allowed",
            where="data.bundle",
            fix="name fewer files, or data that every machine loads itself",
        )
    unnamed = folder / "new.tar"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(unnamed, durable=True) as unfinished, tarfile.open(unfinished, "w") as tar:
            for name in sorted(files):
                _add(tar, name, files[name])
        digest = digest_file(unnamed)
        bundle = unnamed.rename(folder / bundle_name(digest).partition("/")[2])
    except OSError as error:
        raise StorageError(f"the bundle cannot be written: {error.strerror or error}", where=str(folder)) from None
    for other in folder.glob("*.tar"):
        if other != bundle:
            other.unlink(missing_ok=True)
    return bundle, digest


def unpack(tar_file: Path, folder: Path) -> None:
    """Write the files of a bundle below `folder`.

    Raises:
        StorageError: it holds something else than files and folders, a name that leads out of `folder`, or too much; or
            a file cannot be written.
    """
    try:
        with tarfile.open(tar_file, "r:") as tar:
            size = count = 0
            for member in tar:
                count, size = count + 1, size + member.size
                _require_plain(member, tar_file)
                if count > MAX_FILES or size > MAX_BYTES:
                    raise StorageError("the bundle holds more than is allowed", where=str(tar_file))
                tar.extract(member, folder, filter="data")
    except tarfile.TarError as error:
        raise StorageError(f"the bundle cannot be unpacked: {error}", where=str(tar_file)) from None


def fetch_bundle(depot: Depot, bundle: Bundle, folder: Path, stopped: Callable[[], bool] = lambda: False) -> None:
    """Fetch a bundle and unpack it into `folder`; errors as `fetch` and `unpack`."""
    packed = folder / "bundle.tar"
    fetch(depot, Promised(bundle_name(bundle.digest), bundle.size_bytes, bundle.digest), packed, stopped)
    unpack(packed, folder)
    packed.unlink()


def _add(tar: tarfile.TarFile, name: str, path: Path) -> None:
    member = tarfile.TarInfo(name)
    with path.open("rb") as content:
        member.size, member.mode = os.fstat(content.fileno()).st_size, 0o644
        tar.addfile(member, content)


def _require_plain(member: tarfile.TarInfo, tar_file: Path) -> None:
    if not (member.isreg() or member.isdir()) or member.issparse():
        raise StorageError(
            f"the bundle holds {member.name!r}, which is neither a file nor a folder", where=str(tar_file)
        )
