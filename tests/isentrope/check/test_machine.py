"""What this machine cannot give is told before a run."""

from pathlib import Path
from typing import Any

import pytest

from isentrope.check.machine import doubts, failures
from isentrope.config import Config, accept
from isentrope.runfile import RunFile, from_values


def _opened(folder: Path, **tables: dict[str, Any]) -> tuple[Config, RunFile]:
    values = {"run": {"name": "a"}, "model": {"path": "m"}, "data": {"train": "task:digit_walk"}}
    return accept(from_values(folder / "run", values | tables))


def _told(folder: Path, **tables: dict[str, Any]) -> list[str]:
    return [error.what for error in failures(*_opened(folder, **tables))]


def test_a_folder_that_can_be_made_is_not_made(tmp_path: Path) -> None:
    assert _told(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for place in ("/proc/runs", str(tmp_path / "file" / "run")):
        (told,) = _told(tmp_path, run={"name": "a", "output_dir": place})
        assert f"the run's folder {place} cannot be made" in told


def test_the_folder_is_that_beside_the_run_file_wherever_its_data_lie(tmp_path: Path) -> None:
    (tmp_path / "beside").mkdir()
    (tmp_path / "beside" / "runs").touch()
    (told,) = _told(tmp_path / "beside", run={"name": "a", "base_dir": ".."})
    assert str(tmp_path / "beside" / "runs" / "a") in told


def test_more_processes_than_cores_is_a_doubt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("isentrope.check.machine.gpu_count", lambda: 0)
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0, 1, 2})
    config, _ = _opened(tmp_path, learner={"ranks": 8}, actors={"count": 64})
    (note,) = doubts(config)
    assert "72 processor cores" in note and "here are 3" in note
    assert list(doubts(_opened(tmp_path)[0])) == []


def test_more_gpus_than_there_are_is_a_doubt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And not an error: the same file may be for a cluster."""
    monkeypatch.setattr("isentrope.check.machine.gpu_count", lambda: 8)
    config, _ = _opened(tmp_path, learner={"ranks": 4}, actors={"count": 3, "tensor_parallel_size": 2})
    (note,) = doubts(config)
    assert "10 GPUs (3 actors of 2 and 4 ranks)" in note and "here are 8" in note
