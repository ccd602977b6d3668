"""Who is late, and which key of the run file gives it more time."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from isentrope.config import load
from isentrope.errors import UnreachableError
from isentrope.launch.supervisor import Supervisor


def test_a_learner_that_does_not_open_the_run_is_given_its_own_key_and_not_the_actors(run_file: Path) -> None:
    config, _ = load(run_file, ["learner.start_timeout_s=1e-9", "actors.start_timeout_s=1000"])
    started: Any = SimpleNamespace(
        spec=SimpleNamespace(output_dir=str(run_file.parent)),
        config=config,
        view=SimpleNamespace(control=lambda: None, weights=lambda: None, actors=list[object], incarnation=lambda: 0),
        learner=SimpleNamespace(has_ended=False),
    )
    interrupts: Any = SimpleNamespace(asked=False)
    progress: Any = SimpleNamespace()
    with pytest.raises(UnreachableError, match="learner has not opened the run") as raised:
        Supervisor(started, interrupts, progress).watch()
    assert "raise learner.start_timeout_s" in raised.value.fix and "learner-0.log" in raised.value.fix
