"""Weights of one version as safetensors shards; see `rollout/wire/weights.py` for the manifest."""

from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from isentrope.errors import StorageError
from isentrope.rollout.wire.files import replacing
from isentrope.rollout.wire.proof import Canary, TensorFacts
from isentrope.rollout.wire.tensor_bits import facts_of
from isentrope.rollout.wire.weights import Manifest, make_manifest

SHARD_BYTES = 2 << 30
"""Size at which a shard is closed; rank 0 holds as much memory beside the model."""


def write_version(
    weights: Iterator[tuple[str, Tensor]], folder: Path, *, version: int, canary: Canary | None = None
) -> Manifest:
    """Write all of `weights` and their manifest into `folder`.

    `weights` is read to its end even after an error, because the other ranks take part in it.

    Raises:
        StorageError: a file could not be written.
    """
    shards = _Shards(folder)
    for name, value in weights:
        shards.add(name, value)
    files = shards.close()
    return make_manifest(folder, version=version, tensors=shards.table, files=files, canary=canary)


class _Shards:
    """Writer of tensors into shards. A shard has its final name only when it is complete."""

    def __init__(self, folder: Path) -> None:
        self.table: dict[str, TensorFacts] = {}
        self._folder = folder
        self._files: list[str] = []
        self._tensors: dict[str, Tensor] = {}
        self._bytes = 0
        self._failure: Exception | None = None

    def add(self, name: str, value: Tensor) -> None:
        """Copy `value`, after hashing it where it is; after a failure do nothing."""
        if self._failure is not None:
            return
        self.table[name] = facts_of(value)
        self._tensors[name] = value.to("cpu", copy=True).contiguous()
        self._bytes += value.nbytes
        if self._bytes >= SHARD_BYTES:
            self._write()

    def close(self) -> list[str]:
        """Write the last shard, and return the names of all files, in order."""
        if self._tensors and self._failure is None:
            self._write()
        if self._failure is not None:
            raise StorageError(f"weights cannot be written: {self._failure}", where=str(self._folder))
        return self._files

    def _write(self) -> None:
        path = self._folder / f"weights-{len(self._files):05d}.safetensors"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with replacing(path, durable=False) as unfinished:
                save_file(self._tensors, unfinished, metadata={"format": "pt"})
        except (OSError, SafetensorError) as error:
            self._failure = error
        self._files.append(path.name)
        self._tensors, self._bytes = {}, 0
