"""Ranks on one machine meet by a file, answer by rank 0, and end together."""

import multiprocessing
from pathlib import Path

import pytest
import rank_bodies

from isentrope.errors import ConfigError, InternalError
from isentrope.launch.local_ranks import LocalRanks
from isentrope.learner.config import LearnerConfig


def test_gpus_that_are_too_few_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("isentrope.launch.local_ranks.gpu_count", lambda: 1)
    with pytest.raises(ConfigError, match=r"learner\.ranks = 2, and this machine has 1 GPUs"):
        LocalRanks(LearnerConfig(ranks=2), int, tmp_path, None)


@pytest.mark.slow
def test_ranks_meet_and_rank_0_answers_whatever_interrupts_come(tmp_path: Path) -> None:
    with LocalRanks(LearnerConfig(ranks=2), rank_bodies.interrupted, tmp_path, tmp_path / "logs") as ranks:
        for process in multiprocessing.active_children():
            process.terminate()  # it still loads
        assert ranks.wait(None)
        assert ranks.result() == 20
    assert sorted(path.name for path in (tmp_path / "logs").iterdir()) == ["learner-0.log", "learner-1.log"]


@pytest.mark.slow
def test_a_rank_that_is_killed_ends_all(tmp_path: Path) -> None:
    with (
        LocalRanks(LearnerConfig(ranks=2), rank_bodies.killed, tmp_path, None) as ranks,
        pytest.raises(InternalError, match=r"a rank has died .*SIGKILL"),
    ):
        ranks.wait(None)
