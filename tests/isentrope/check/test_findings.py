"""What a preset sets has the place at which the preset is chosen."""

from pathlib import Path

import pytest

from isentrope.check.findings import Findings
from isentrope.config import load
from isentrope.errors import ConfigError


@pytest.mark.parametrize(("overrides", "place"), [((), "run.toml:19: "), (("learner.method=ppo",), "command line: ")])
def test_a_presets_key_has_the_place_of_the_method(run_file: Path, overrides: tuple[str, ...], place: str) -> None:
    run_file.write_text(run_file.read_text() + 'method = "ppo"\n')
    stages = Findings(*load(run_file, overrides)).stages()
    errors = next(errors for name, errors in stages if name == "objective")
    assert errors
    (error,) = errors
    assert isinstance(error, ConfigError)
    assert error.where == f"{place}learner.objective.advantage.baseline (set by ppo)"
