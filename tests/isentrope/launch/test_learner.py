"""How long the ranks wait for a model that is still being made."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from isentrope.errors import UnreachableError
from isentrope.launch.learner import LearnerPlan, await_model
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
