"""What differs on a machine is one sentence that names it, before anything is started there."""

import errno
import os
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from isentrope.launch import machines
from isentrope.launch.machines import Look, differences, look, require_alike, versions
from isentrope.launch.placement import Node
from isentrope.runfolder import RunFolder

HOST = socket.gethostname()


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A run's folder that a command holds, with a marker."""
    with RunFolder.claim(tmp_path / "run", config_digest="c", data_digest="d") as claimed:
        (claimed.path / "marker").touch()
        yield claimed.path


def told(found: Look) -> list[str]:
    return [error.what for error in differences(found, versions())]


def test_a_machine_that_sees_the_folder_and_has_the_same_versions_is_right(folder: Path) -> None:
    assert told(look(folder, "marker", "")) == []
    assert {"isentrope", "Python", "ray", "vllm"} <= versions().keys()
    assert sorted(path.name for path in folder.iterdir()) == ["logs", "marker", "run.lock"]


def test_a_folder_that_is_not_there_or_is_another_of_the_same_name_is_missing(folder: Path, tmp_path: Path) -> None:
    assert told(look(tmp_path / "nowhere", "marker", "")) == [
        f"{HOST} does not see the run's folder {tmp_path}/nowhere"
    ]
    assert told(look(folder, "another", "")) == [f"{HOST} does not see the run's folder {folder}"]


def test_a_lock_that_holds_on_one_machine_alone_is_none(tmp_path: Path) -> None:
    for name in ("marker", "run.lock"):
        (tmp_path / name).touch()
    (sentence,) = told(look(tmp_path, "marker", ""))
    assert sentence == f"{HOST} does not see the lock of {tmp_path}: another command could run in it"


def test_a_file_system_without_hard_links_is_refused_by_that(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    assert told(look(folder, "marker", "")) == [f"{HOST} cannot link files in {folder}: Operation not permitted"]


def test_versions_that_differ_are_named_with_those_of_this_machine(folder: Path) -> None:
    there = Look("n3", versions() | {"vllm": "0.1"}, "")
    assert told(there) == [f"n3 has vllm 0.1, and this machine vllm {versions()['vllm']}"]
    lacking = Look("n3", {name: value for name, value in versions().items() if name != "ray"}, "")
    assert told(lacking) == [f"n3 has ray (none), and this machine ray {versions()['ray']}"]


def test_a_machine_that_needs_no_folder_is_not_asked_for_it(tmp_path: Path) -> None:
    assert told(look(tmp_path / "nowhere", "", "")) == []


def test_a_marker_is_left_in_no_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def looks(nodes: Sequence[Node], asked: machines._Asked) -> tuple[dict[str, Look], list[str]]:
        return {"n3": look(asked.folder, asked.markers["n3"], asked.model)}, ["n4"]

    monkeypatch.setattr(machines, "_looks", looks)
    nodes = [Node(name, name, 1.0, 0.0, {}) for name in ("n3", "n4")]
    found = require_alike(nodes, folder, {"n3"}, str(folder / "model"))
    assert found.notes == ["n4 has not answered for 20 s: it is taken as it is"]
    assert found.without_model == ["n3"]
    for model in ("owner/name", str(folder)):
        assert require_alike(nodes, folder, {"n3"}, model).without_model == []
    assert sorted(path.name for path in folder.iterdir()) == ["logs", "marker", "run.lock"]
