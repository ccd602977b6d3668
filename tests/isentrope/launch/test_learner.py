"""How long the ranks wait for a model that is still being made; what ends them for good."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from isentrope.errors import FencedError, UnreachableError
from isentrope.launch import learner
from isentrope.launch.learner import LearnerPlan, await_model, lead
from isentrope.launch.surroundings import Surroundings
from isentrope.learner.config import LearnerConfig


def plan_for(model: Path | None) -> LearnerPlan:
    job: Any = SimpleNamespace(config=LearnerConfig(start_timeout_s=1e-9))
    return LearnerPlan(
        job,
        gpu=False,
        log_folder=Path("logs"),
        model=model,
        surroundings=Surroundings(cpu=True),
        cpus=0.01,
        labels={},
        restart_limit=0,
    )


def test_a_model_that_is_never_made_ends_the_wait_and_names_the_key(tmp_path: Path) -> None:
    with pytest.raises(UnreachableError, match="was not made within") as raised:
        await_model(plan_for(tmp_path / "model.safetensors"))
    assert "raise learner.start_timeout_s" in raised.value.fix


def test_a_model_that_is_there_is_not_waited_for(tmp_path: Path) -> None:
    await_model(plan_for(None))
    await_model(plan_for(tmp_path))


def test_ranks_that_were_fenced_are_not_started_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else they would take the run back, and the other learner would do the same."""
    from ray.train import WorkerGroupError

    started: list[LearnerPlan] = []

    def fit() -> None:
        raise WorkerGroupError("rank 0 failed", {0: FencedError("fenced: learner 3 took over from 2")})

    def trainer(plan: LearnerPlan) -> SimpleNamespace:
        started.append(plan)
        return SimpleNamespace(fit=fit)

    monkeypatch.setattr(learner, "_trainer", trainer)
    monkeypatch.setattr(learner.logs, "to_file", lambda path: None)
    job: Any = SimpleNamespace(spec=SimpleNamespace(output_dir=str(tmp_path)))
    surroundings: Any = SimpleNamespace(enter=lambda alone: None)
    plan = dataclasses.replace(plan_for(None), job=job, surroundings=surroundings, restart_limit=3)
    with pytest.raises(FencedError, match="learner 3 took over"):
        lead(plan)
    assert started == [plan]
