"""Digests say how they were made, and a digest of another kind is compared in its own way or refused."""

import hashlib
from pathlib import Path

import pytest
from blake3 import blake3
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from isentrope.errors import StorageError
from isentrope.rollout.wire import digests
from isentrope.rollout.wire.digests import algorithm_of, digest_bytes, digest_file


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(content=st.binary(max_size=64))
def test_a_file_has_the_digest_of_its_content_whatever_the_size_of_a_chunk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    monkeypatch.setattr(digests, "CHUNK_BYTES", 7)
    file = tmp_path / "file"
    file.write_bytes(content)
    assert digest_file(file) == digest_bytes(content) == f"blake3:{blake3(content).hexdigest()}"
    assert digest_file(file, "") == digest_bytes(content, "") == hashlib.blake2b(content, digest_size=32).hexdigest()


def test_a_digest_is_compared_with_one_of_its_own_algorithm() -> None:
    for algorithm in ("", "blake3"):
        assert algorithm_of(digest_bytes(b"content", algorithm)) == algorithm


def test_a_digest_of_a_later_kind_is_refused() -> None:
    with pytest.raises(StorageError, match="'sum9' are unknown"):
        digest_bytes(b"", algorithm_of("sum9:00"))
