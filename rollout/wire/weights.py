"""Published weights as files: one folder per version, its manifest, digests. Imports neither torch nor redis.

A folder is complete when it holds `manifest.json`, which is written last. `verify` compares the shards with their
manifest before anything is loaded. A digest detects damage; it does not prove who wrote the file, nor that the file
holds what the learner had in memory: `proof.py` does.
"""

import json
import re
import shutil
import time
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from isentrope.errors import StorageError
from isentrope.rollout.wire.digests import ALGORITHM, algorithm_of, digest_bytes, digest_file
from isentrope.rollout.wire.files import write_whole
from isentrope.rollout.wire.proof import CANARY, TENSORS, Canary, TensorTable, tensors_text
from isentrope.rollout.wire.types import batch_of, incarnation_of

MANIFEST = "manifest.json"

_UNDIGESTED = ("folder", "created", "digest")
"""Fields that a manifest's digest does not cover."""

_FORMER = "parameters"
"""Field of manifests before there were `tensors`."""

_VERSION_FOLDER = re.compile(r"[0-9]{1,19}")


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
    folder: Annotated[str, Field(exclude=True)] = ""
    """Folder of the shards on the machine of the reader, who sets it; it is not part of what is published."""
    shards: tuple[Shard, ...]
    dtype: str
    """Number format of most tensors; a buffer may have another, see `tensors`."""
    tensors: Shard | None = None
    """Table of the tensors, with the dtype of each and the hash of its bits; see `proof.py`. None: no learner wrote
    these files."""
    canary: Shard | None = None
    """Tokens with the policy's log-probabilities; None: a version that no run serves."""
    digest: str
    """Digest of all fields but `folder` and `created`: equal in two runs that publish the same weights with the
    same canary."""
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


class Announcement(BaseModel):
    """Newest weights as the broker states them: what they are, and where they lie."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[2] = 2
    manifest: Manifest
    depots: tuple[str, ...] = ()
    """URLs of the depots that hold the version, the preferred one first; none: the run's own, see `RunSpec`."""

    @model_validator(mode="before")
    @classmethod
    def _of_schema_1(cls, record: object) -> object:
        """Read the bare manifest that earlier versions of this program announced."""
        return {"manifest": record} if isinstance(record, dict) and "shards" in record else record


def version_folder(output_dir: str | Path, version: int) -> Path:
    """Return the folder of a version's shards, absolute."""
    return Path(output_dir).absolute() / "weights" / str(version)


def make_manifest(
    folder: Path, *, version: int, tensors: TensorTable, shards: Sequence[Shard], canary: Canary | None = None
) -> Manifest:
    """Return the manifest of `shards`, which lie complete in `folder`; also writes it there, in one step, and the table
    and the canary before it.

    Raises:
        StorageError: the manifest cannot be written.
    """
    kinds = Counter(facts.dtype for facts in tensors.values())
    manifest = _manifest(folder, version, max(kinds, key=kinds.__getitem__, default=""), shards)
    _write(folder / TENSORS, tensors_text(tensors))
    beside = {"tensors": shard_of(folder, TENSORS)}
    if canary is not None:
        _write(folder / CANARY, canary.model_dump_json())
        beside["canary"] = shard_of(folder, CANARY)
    manifest = _with_digest(manifest.model_copy(update=beside))
    _write(folder / MANIFEST, manifest.model_dump_json(indent=1), durable=True)
    return manifest


def describe(folder: Path, *, version: int, dtype: str, files: Sequence[str]) -> Manifest:
    """Return the manifest of the shards `files` in `folder`, which stays as it is; StorageError if one cannot be read.

    Nothing proves that an engine serves these weights: no learner has them in memory.
    """
    return _with_digest(_manifest(folder, version, dtype, [shard_of(folder, file) for file in files]))


def shard_of(folder: Path, file: str) -> Shard:
    """Return size and digest of a file in `folder`; StorageError if it cannot be read."""
    return Shard(file=file, size_bytes=_size(folder / file), digest=digest_file(folder / file))


def read_manifest(folder: Path) -> Manifest:
    """Return the manifest of a version that lies in `folder`, also as version 0.1 of this program wrote it.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not a manifest.
        StorageError: one of version 0.1 is not as it was written.
    """
    text = (folder / MANIFEST).read_bytes()
    values = json.loads(text)
    if isinstance(values, dict) and _FORMER in values:
        manifest = _of_former(folder, values)
    else:
        manifest = Manifest.model_validate_json(text)
    return manifest.model_copy(update={"folder": str(folder.absolute())})


def _of_former(folder: Path, values: Mapping[str, object]) -> Manifest:
    """Return a manifest that names its parameters by a digest, without that; nothing else proves such a version."""
    facts = {name: value for name, value in values.items() if name not in _UNDIGESTED}
    found = digest_bytes(json.dumps(facts, separators=(",", ":")).encode(), "")
    if found != values.get("digest"):
        raise _differs(folder / MANIFEST, "digest", str(values.get("digest")), found)
    return _with_digest(Manifest.model_validate({name: value for name, value in values.items() if name != _FORMER}))


def verify(manifest: Manifest) -> list[Path]:
    """Return the paths of the shards, in order, after checking that each file is exactly what the manifest says.

    Raises:
        StorageError: names the file, the expected value and the value found.
    """
    if (actual := _digest_manifest(manifest, algorithm_of(manifest.digest))) != manifest.digest:
        raise _differs(Path(manifest.folder, MANIFEST), "digest", manifest.digest, actual)
    beside = (manifest.tensors, manifest.canary)
    for shard in (*manifest.shards, *(each for each in beside if each is not None)):
        path = Path(manifest.folder, shard.file)
        if (size := _size(path)) != shard.size_bytes:
            raise _differs(path, "size", f"{shard.size_bytes} bytes", f"{size} bytes")
        if (digest := digest_file(path, algorithm_of(shard.digest))) != shard.digest:
            raise _differs(path, "digest", shard.digest, digest)
    return [Path(manifest.folder, shard.file) for shard in manifest.shards]


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


def _write(path: Path, text: str, *, durable: bool = False) -> None:
    try:
        write_whole(path, text, durable=durable)
    except OSError as error:
        raise StorageError(f"weight manifest cannot be written: {error.strerror}", where=str(path)) from None


def _manifest(folder: Path, version: int, dtype: str, shards: Sequence[Shard]) -> Manifest:
    place, now = str(folder.absolute()), time.time()
    return Manifest(version=version, folder=place, shards=tuple(shards), dtype=dtype, digest="", created=now)


def _with_digest(manifest: Manifest) -> Manifest:
    return manifest.model_copy(update={"digest": _digest_manifest(manifest)})


def _digest_manifest(manifest: Manifest, algorithm: str = ALGORITHM) -> str:
    return digest_bytes(manifest.model_dump_json(exclude=set(_UNDIGESTED)).encode(), algorithm)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise StorageError(f"weight file cannot be read: {error.strerror}", where=str(path)) from None


def _differs(path: Path, what: str, expected: str, actual: str) -> StorageError:
    return StorageError(f"weight file has another {what}: {actual} instead of {expected}", where=str(path))
