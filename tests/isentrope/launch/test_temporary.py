"""Temporary folders go with their process, also if it is killed, and no others do."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from isentrope.launch.temporary import delete_left, engine_folder, own_folder

HOLDER = """
import sys
from isentrope.launch.temporary import own_folder

with own_folder("ray") as folder:
    (folder / "file").touch()
    print(folder, flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A temporary folder with a short path, as sockets need; pytest has made its own before."""
    with tempfile.TemporaryDirectory(prefix="t", dir="/tmp") as folder:
        monkeypatch.setenv("TMPDIR", folder)
        monkeypatch.setattr(tempfile, "tempdir", folder)
        yield Path(folder)


def _holder() -> tuple[subprocess.Popen[str], Path]:
    pipe = subprocess.PIPE
    process = subprocess.Popen([sys.executable, "-c", HOLDER], stdin=pipe, stdout=pipe, text=True)
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def test_a_killed_process_leaves_its_folder_to_the_next_one_and_a_living_one_keeps_it(place: Path) -> None:
    (killed, left), (living, kept) = _holder(), _holder()
    delete_left()
    assert (left / "file").exists()
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    with own_folder("train") as mine:
        assert sorted(place.iterdir()) == sorted([kept, mine])
    living.communicate("\n")
    assert list(place.iterdir()) == []


def test_nothing_but_these_folders_is_deleted(place: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (place / "isentrope.ray.link").symlink_to(tmp_path)
    (place / "isentrope-abcd").mkdir()
    (place / "isentrope.actor.file").touch()
    before = sorted(place.iterdir())
    delete_left()
    assert sorted(place.iterdir()) == before and (tmp_path / "file").exists()


def test_what_an_engine_makes_lies_in_a_folder_of_its_own_within_a_sockets_length(place: Path) -> None:
    """As vLLM names its sockets, by 36 letters."""
    with engine_folder():
        folder = Path(tempfile.gettempdir())
        assert folder.parent == place and os.environ["TMPDIR"] == str(folder)
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(f"{folder}/{'0' * 36}")
    assert tempfile.gettempdir() == os.environ["TMPDIR"] == str(place) and list(place.iterdir()) == []


def test_a_folder_with_too_long_a_path_for_sockets_is_not_used(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = place / ("y" * (70 - len(str(place))))
    long.mkdir(parents=True)
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    with engine_folder():
        assert tempfile.gettempdir() == str(long)
