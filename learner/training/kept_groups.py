"""Groups in a file: the digest of its second line, that line, which is a record in JSON, and payloads end to end.

The record holds of each group its header and the digest of its payload, so every bit of the file is checked when it is
read. Importing this loads no torch.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from isentrope.errors import RecordError, StorageError
from isentrope.rollout.wire.codec import HeaderFields, decode_group, encode_group
from isentrope.rollout.wire.digests import digest_bytes
from isentrope.rollout.wire.types import Group
from isentrope.rollout.wire.validation import Limits

RESTORE = "restore the file, or replay only what lies on one side of it"

R = TypeVar("R", bound=BaseModel)


class KeptGroup(BaseModel):
    """One group of a file, without its payload."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    header: dict[str, int | str]
    """Header of its record, as on the wire."""
    digest: str
    """Digest of its payload."""

    @property
    def size_bytes(self) -> int:
        """Size of its payload."""
        return int(self.header["bytes"])


def encoded(groups: Iterable[Group]) -> tuple[tuple[KeptGroup, ...], list[bytes]]:
    """Return what a record holds of groups, and their payloads."""
    pairs = [encode_group(group) for group in groups]
    return tuple(_kept(header, payload) for header, payload in pairs), [payload for _, payload in pairs]


def packed(record: BaseModel, payloads: Sequence[bytes]) -> bytes:
    """Return the file of a record and the payloads of its groups."""
    line = record.model_dump_json().encode()
    return b"".join([digest_bytes(line).encode(), b"\n", line, b"\n", *payloads])


def opened(path: Path, kind: type[R]) -> tuple[R, bytes]:
    """Return the record of a file, and all behind it; StorageError if the record is damaged."""
    return _read(path, kind, -1)


def record_in(path: Path, kind: type[R]) -> R:
    """Return the record of a file alone; StorageError if it is damaged."""
    return _read(path, kind, 0)[0]


def groups_in(path: Path, groups: Iterable[KeptGroup], content: bytes) -> Iterator[Group]:
    """Yield the groups whose payloads `content` holds; StorageError if one is damaged."""
    start = 0
    for kept in groups:
        payload = content[start : start + kept.size_bytes]
        start += kept.size_bytes
        if (found := digest_bytes(payload)) != kept.digest:
            raise _damaged(path, f"payload of group {kept.header['seq']}", f"it has {found}, not {kept.digest}")
        try:
            yield decode_group(kept.header, payload, max_bytes=kept.size_bytes, limits=Limits())
        except RecordError as error:
            raise _damaged(path, f"payload of group {kept.header['seq']}", str(error)) from None
    if len(content) != start:
        raise _damaged(path, "last payload", f"{len(content) - start} bytes follow it")


def batch_number(path: Path) -> int:
    """Return the number of the batch that a file holds."""
    return int(path.name.partition("-")[0])


def _read(path: Path, kind: type[R], size: int) -> tuple[R, bytes]:
    """Return the record of a file, and `size` bytes behind it; -1: all."""
    try:
        with path.open("rb") as file:
            digest, line, content = file.readline(), file.readline(), file.read(size)
        if digest != digest_bytes(line.removesuffix(b"\n")).encode() + b"\n" or not line.endswith(b"\n"):
            raise _damaged(path, "plan", "it does not have its digest")
        return kind.model_validate_json(line), content
    except StorageError:
        raise
    except (OSError, ValidationError) as error:
        raise _damaged(path, "plan", str(error)) from None


def _kept(header: HeaderFields, payload: bytes) -> KeptGroup:
    plain = {name: value for name, value in header.items() if not isinstance(value, bytes)}
    return KeptGroup(header=plain, digest=digest_bytes(payload))


def _damaged(path: Path, part: str, why: str) -> StorageError:
    return StorageError(
        f"the kept {part} of batch {batch_number(path)} is damaged: {why}", where=str(path), fix=RESTORE
    )
