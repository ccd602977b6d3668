"""Weights of one version as safetensors shards, hashed while they are written; see `rollout/wire/weights.py` for the
manifest."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from isentrope.errors import StorageError
from isentrope.rollout.wire.digests import digest_text, new_hasher
from isentrope.rollout.wire.files import replacing
from isentrope.rollout.wire.proof import Canary, TensorFacts
from isentrope.rollout.wire.tensor_bits import facts_of
from isentrope.rollout.wire.weights import Manifest, Shard, make_manifest

SHARD_BYTES = 1 << 30
"""Size at which a shard is closed."""

CHUNK_BYTES = 8 << 20
"""Bytes that are hashed and then written, while a processor still has them at hand."""

_METADATA = {"format": "pt"}
"""Entry of the header without which transformers refuses a file."""

_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
"""Names of number formats in safetensors files."""


def write_version(
    weights: Iterator[tuple[str, Tensor]], folder: Path, *, version: int, canary: Canary | None = None
) -> Manifest:
    """Write all of `weights` and their manifest into `folder`.

    `weights` is read to its end even after an error, because the other ranks take part in it.

    Raises:
        StorageError: a file could not be written.
    """
    shards = Shards(folder)
    for name, value in weights:
        shards.add(name, value.to("cpu", copy=True), facts_of(value))
    files = shards.close()
    return make_manifest(folder, version=version, tensors=shards.table, shards=files, canary=canary)


class Shards:
    """Writer of tensors into shards. A shard has its final name only when it is complete."""

    def __init__(self, folder: Path, name: str = "weights") -> None:
        """Write files `<name>-<number>.safetensors` into `folder`, which is made when the first is written."""
        self.table: dict[str, TensorFacts] = {}
        self._folder = folder
        self._name = name
        self._files: list[Shard] = []
        self._tensors: dict[str, Tensor] = {}
        self._bytes = 0
        self._failure: Exception | None = None

    def add(self, name: str, value: Tensor, facts: TensorFacts) -> None:
        """Take a tensor on the CPU, which must not change until its shard is written; after a failure do nothing."""
        if self._failure is not None:
            return
        self.table[name] = facts
        self._tensors[name] = value
        self._bytes += value.nbytes
        if self._bytes >= SHARD_BYTES:
            self._write()

    def close(self) -> list[Shard]:
        """Write the last shard, and return all of them, in order; StorageError if one could not be written."""
        if self._tensors and self._failure is None:
            self._write()
        if self._failure is not None:
            raise StorageError(f"weights cannot be written: {self._failure}", where=str(self._folder))
        return self._files

    def _write(self) -> None:
        path = self._folder / f"{self._name}-{len(self._files):05d}.safetensors"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._files.append(_write_shard(self._tensors, path))
        except (OSError, KeyError) as error:
            self._failure = error
        self._tensors, self._bytes = {}, 0


def _write_shard(tensors: Mapping[str, Tensor], path: Path) -> Shard:
    """Write one safetensors file. The library's own writer cannot hash, and reading a file again takes as long."""
    ordered = dict(
        sorted(tensors.items(), key=lambda item: -item[1].itemsize)
    )  # so that each begins at a whole element
    hasher, size = new_hasher(), 0
    with replacing(path, durable=False) as unfinished, unfinished.open("wb") as file:
        for part in (_header(ordered), *map(_content, ordered.values())):
            for begin in range(0, len(part), CHUNK_BYTES):
                chunk = part[begin : begin + CHUNK_BYTES]
                hasher.update(chunk)
                file.write(chunk)
            size += len(part)
    return Shard(file=path.name, size_bytes=size, digest=digest_text(hasher))


def _header(tensors: Mapping[str, Tensor]) -> memoryview:
    """Return what a safetensors file begins with: a length, and a table in JSON, padded to whole words."""
    table: dict[str, object] = {"__metadata__": _METADATA}
    end = 0
    for name, value in tensors.items():
        begin, end = end, end + value.nbytes
        table[name] = {"dtype": _DTYPES[value.dtype], "shape": list(value.shape), "data_offsets": [begin, end]}
    text = json.dumps(table, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return memoryview(len(text).to_bytes(8, "little") + text)


def _content(value: Tensor) -> memoryview:
    return value.detach().contiguous().view(-1).view(torch.uint8).numpy().data
