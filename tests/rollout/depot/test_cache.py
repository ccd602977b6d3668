"""A folder in the cache is whole or not there, whatever happened to the process that made it."""

import errno
import fcntl
import os
from pathlib import Path

import pytest

from isentrope.errors import StorageError, UnreachableError
from isentrope.rollout.depot import cache as cache_module
from isentrope.rollout.depot import fetching
from isentrope.rollout.depot.cache import Cache, _lock
from isentrope.rollout.depot.fetching import Promised, fetch
from isentrope.rollout.depot.folder_depot import FolderDepot


def test_what_an_earlier_try_has_left_is_given_to_the_next(tmp_path: Path) -> None:
    cache, seen = Cache(tmp_path, keep=1), []

    def fails(folder: Path) -> None:
        (folder / "half").touch()
        raise UnreachableError("gone")

    def completes(folder: Path) -> None:
        seen.extend(path.name for path in folder.iterdir())

    with pytest.raises(UnreachableError), cache.entry("a", fails):
        pass
    with cache.entry("a", completes) as folder:
        assert seen == ["half"] and folder == tmp_path / "a"


def test_a_folder_that_is_forgotten_is_made_again(tmp_path: Path) -> None:
    cache, made = Cache(tmp_path, keep=1), []
    with cache.entry("a", made.append):
        cache.forget("a")
        assert (tmp_path / "a").exists(), "it is in use"
    cache.forget("a")
    with cache.entry("a", made.append):
        assert len(made) == 2


def test_one_that_waits_for_another_that_makes_no_progress_gives_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache_module, "STILL_S", 0.0)
    part = tmp_path / "a.part"
    part.mkdir()
    held = os.open(part, os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    with (
        pytest.raises(UnreachableError, match=r"another process of this machine fetches a\.part"),
        Cache(tmp_path, keep=1).entry("a", lambda folder: None),
    ):
        pass
    os.close(held)
    with Cache(tmp_path, keep=1).entry("a", lambda folder: None) as folder:
        assert _lock(folder, fcntl.LOCK_EX) is None, "the entry is not locked while it is used"


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    cache = Cache(tmp_path / "file", keep=1)
    with pytest.raises(StorageError, match="cannot be created") as caught, cache.entry("a", lambda folder: None):
        pass
    assert "--cache" in caught.value.fix


def test_a_full_disk_is_named_with_its_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(fetching, "_write", full)
    with pytest.raises(StorageError, match=r"the disk of .* is full") as caught:
        fetch(FolderDepot(tmp_path), Promised("bundle/a.tar", 1, ""), tmp_path / "x")
    assert "--cache" in caught.value.fix
