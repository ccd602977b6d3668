"""Digests of files. Each names its algorithm, as in `blake3:0f4a…`.

Those of BLAKE2b, without a name, are of versions and checkpoints that an earlier isentrope wrote; they are still read.
"""

import hashlib
from pathlib import Path
from typing import Protocol

from blake3 import blake3

from isentrope.errors import StorageError

ALGORITHM = "blake3"
"""Algorithm of every digest that is made."""

CHUNK_BYTES = 1 << 20


class Hasher(Protocol):
    """Interface of a hash function of the standard library, and of BLAKE3."""

    def update(self, data: bytes | memoryview, /) -> object: ...

    def hexdigest(self) -> str: ...


def digest_file(path: Path, algorithm: str = ALGORITHM) -> str:
    """Return the digest of a file's content; StorageError if it cannot be read."""
    hasher = new_hasher(algorithm)
    try:
        with path.open("rb", buffering=0) as file:
            while chunk := file.read(CHUNK_BYTES):
                hasher.update(chunk)
    except OSError as error:
        raise StorageError(f"weight file cannot be read: {error.strerror}", where=str(path)) from None
    return digest_text(hasher, algorithm)


def digest_bytes(content: bytes, algorithm: str = ALGORITHM) -> str:
    """Return the digest of a file with this content."""
    hasher = new_hasher(algorithm)
    hasher.update(content)
    return digest_text(hasher, algorithm)


def digest_text(hasher: Hasher, algorithm: str = ALGORITHM) -> str:
    """Return the digest of what `hasher` was given, with the name of the algorithm."""
    return f"{algorithm}:{hasher.hexdigest()}" if algorithm else hasher.hexdigest()


def new_hasher(algorithm: str = ALGORITHM) -> Hasher:
    """Return a new hash function; an empty name means BLAKE2b.

    Raises:
        StorageError: a later isentrope made the digest.
    """
    if algorithm not in ("", ALGORITHM):
        raise StorageError(f"digests of kind {algorithm!r} are unknown", fix=f"known: {ALGORITHM}; update isentrope")
    return blake3() if algorithm else hashlib.blake2b(digest_size=32)


def algorithm_of(digest: str) -> str:
    """Return the algorithm that a digest names; empty: none, as BLAKE2b's."""
    return digest.rpartition(":")[0]


def file_name(digest: str) -> str:
    """Return the part of a digest that can be a file's name."""
    return digest.rpartition(":")[2]
