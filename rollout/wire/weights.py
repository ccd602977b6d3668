"""Published weights as files: one folder per version, its manifest, digests. Imports neither torch nor redis.

A folder is complete when it holds `manifest.json`, which is written last. `verify` compares the shards with their
manifest before anything is loaded. A digest detects damage; it does not prove who wrote the file.
"""

import hashlib
import json
import re
import shutil
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Annotated, TypeAlias

from pydantic import BaseModel, ConfigDict, Field

from isentrope.errors import StorageError
from isentrope.rollout.wire.files import write_whole
from isentrope.rollout.wire.types import batch_of, incarnation_of

MANIFEST = "manifest.json"
DIGEST_BYTES = 32

_VERSION_FOLDER = re.compile(r"[0-9]{1,19}")

ParameterTable: TypeAlias = Mapping[str, tuple[str, tuple[int, ...]]]
"""Parameter name -> (dtype, shape)."""


class Shard(BaseModel):
    """One file of a version; `file` is a bare name, so that a manifest cannot point outside its folder."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    file: Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]*$")]
    size_bytes: Annotated[int, Field(ge=0)]
    digest: str


class Manifest(BaseModel):
    """Content of one version; announced through the broker, and kept beside the shards as `manifest.json`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Annotated[int, Field(ge=1)]
    folder: str
    """Absolute folder of the shards."""
    shards: tuple[Shard, ...]
    dtype: str
    parameters: str
    """Digest of the table of parameters; see `digest_parameters`."""
    digest: str
    """Digest of all fields but `folder` and `created`: equal in two runs that publish the same weights."""
    created: float
    """Seconds since the epoch; information only, nothing is computed from it."""

    @property
    def batch(self) -> int:
        """Number of batches these weights were trained on."""
        return batch_of(self.version)

    @property
    def incarnation(self) -> int:
        """Number of the learner that published them."""
        return incarnation_of(self.version)


def version_folder(output_dir: str | Path, version: int) -> Path:
    """Return the folder of a version's shards, absolute."""
    return Path(output_dir).absolute() / "weights" / str(version)


def make_manifest(
    folder: Path, *, version: int, dtype: str, parameters: ParameterTable, files: Sequence[str]
) -> Manifest:
    """Return the manifest of the shards `files` that lie complete in `folder`; also writes it there, in one step.

    Raises:
        StorageError: a shard cannot be read, or the manifest cannot be written.
    """
    manifest = describe(folder, version=version, dtype=dtype, parameters=parameters, files=files)
    path = folder / MANIFEST
    try:
        write_whole(path, manifest.model_dump_json(indent=1), durable=True)
    except OSError as error:
        raise StorageError(f"weight manifest cannot be written: {error.strerror}", where=str(path)) from None
    return manifest


def describe(folder: Path, *, version: int, dtype: str, parameters: ParameterTable, files: Sequence[str]) -> Manifest:
    """Return the manifest of the shards `files` in `folder`, which stays as it is; StorageError as `make_manifest`."""
    shards = tuple(
        Shard(file=file, size_bytes=_size(folder / file), digest=digest_file(folder / file)) for file in files
    )
    manifest = Manifest(
        version=version,
        folder=str(folder.absolute()),
        shards=shards,
        dtype=dtype,
        parameters=digest_parameters(parameters),
        digest="",
        created=time.time(),
    )
    return manifest.model_copy(update={"digest": _digest_manifest(manifest)})


def verify(manifest: Manifest) -> list[Path]:
    """Return the paths of the shards, in order, after checking that each is exactly what the manifest says.

    Raises:
        StorageError: names the file, the expected value and the value found.
    """
    if (actual := _digest_manifest(manifest)) != manifest.digest:
        raise _differs(Path(manifest.folder, MANIFEST), "digest", manifest.digest, actual)
    paths = [Path(manifest.folder, shard.file) for shard in manifest.shards]
    for path, shard in zip(paths, manifest.shards, strict=True):
        if (size := _size(path)) != shard.size_bytes:
            raise _differs(path, "size", f"{shard.size_bytes} bytes", f"{size} bytes")
        if (digest := digest_file(path)) != shard.digest:
            raise _differs(path, "digest", shard.digest, digest)
    return paths


def prune(output_dir: str | Path, keep: Collection[int]) -> None:
    """Delete the folders of all versions older than the newest of `keep` and not among them, unfinished ones too.

    Newer ones stay: a learner that does not know it was replaced must not delete its successor's versions.
    """
    root = version_folder(output_dir, 0).parent
    if not root.is_dir():
        return
    for folder in root.iterdir():
        if not _VERSION_FOLDER.fullmatch(folder.name):
            continue
        version = int(folder.name)
        if version not in keep and version < max(keep, default=0):
            shutil.rmtree(folder, ignore_errors=True)


def digest_file(path: Path) -> str:
    """Return the BLAKE2b digest of a file's content, in hexadecimal."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, _hasher).hexdigest()
    except OSError as error:
        raise StorageError(f"weight file cannot be read: {error.strerror}", where=str(path)) from None


def digest_parameters(parameters: ParameterTable) -> str:
    """Return the digest of the sorted (name, dtype, shape) table: equal for models whose weights fit each other."""
    table = [[name, dtype, list(shape)] for name, (dtype, shape) in sorted(parameters.items())]
    return _hasher(json.dumps(table).encode()).hexdigest()


def _digest_manifest(manifest: Manifest) -> str:
    return _hasher(manifest.model_dump_json(exclude={"folder", "created", "digest"}).encode()).hexdigest()


def _hasher(data: bytes = b"") -> hashlib.blake2b:
    return hashlib.blake2b(data, digest_size=DIGEST_BYTES)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise StorageError(f"weight file cannot be read: {error.strerror}", where=str(path)) from None


def _differs(path: Path, what: str, expected: str, actual: str) -> StorageError:
    return StorageError(f"weight file has another {what}: {actual} instead of {expected}", where=str(path))
