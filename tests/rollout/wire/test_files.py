"""A reader sees the old file or the new one, whatever happens to the writer."""

import resource
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isentrope.rollout.wire.files import replacing, write_whole

CONTENT = st.binary(min_size=1, max_size=50)


class Killed(BaseException):
    """Not an Exception, as Ctrl-C is not."""


@given(st.none() | CONTENT, st.lists(CONTENT, min_size=1, max_size=4), st.data(), st.booleans())
def test_a_reader_finds_the_old_content_until_the_new_is_complete(
    old: bytes | None, chunks: list[bytes], fails: st.DataObject, durable: bool
) -> None:
    failing = fails.draw(st.none() | st.integers(0, len(chunks)), "the chunk before which the writer fails")
    with _folder(old) as path:
        try:
            with replacing(path, durable=durable) as unfinished:
                for number, chunk in enumerate([*chunks, b""]):
                    if number == failing:
                        raise Killed
                    with unfinished.open("ab") as file:
                        file.write(chunk)
                    assert _content(path) == old
        except Killed:
            assert _content(path) == old
        else:
            assert failing is None
            assert _content(path) == b"".join(chunks)
        assert list(path.parent.iterdir()) == ([path] if path.exists() else [])


@pytest.mark.parametrize("durable", [True, False])
@pytest.mark.parametrize("old", [None, b"what was there"])
def test_a_disk_that_fills_up_half_way_leaves_the_old_file_and_nothing_else(old: bytes | None, durable: bool) -> None:
    with _folder(old) as path:
        with _largest_file(100), pytest.raises(OSError, match="too large"):
            write_whole(path, bytes(1000), durable=durable)
        assert _content(path) == old
        assert list(path.parent.iterdir()) == ([path] if old is not None else [])


def test_what_a_killed_writer_left_behind_is_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with replacing(path, durable=False) as left_behind:
        left_behind.write_bytes(b"new")
    left_behind.write_bytes(b"a part of something longer")
    write_whole(path, "newer", durable=False)
    assert (path.read_text(), list(tmp_path.iterdir())) == ("newer", [path])


@contextmanager
def _folder(old: bytes | None) -> Iterator[Path]:
    """Yield the path of a file with content `old`, alone in its folder; None: it does not exist."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "file")
        if old is not None:
            path.write_bytes(old)
        yield path


@contextmanager
def _largest_file(size_bytes: int) -> Iterator[None]:
    """Let the system refuse to make a file of this process larger."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def _content(path: Path) -> bytes | None:
    return path.read_bytes() if path.exists() else None
