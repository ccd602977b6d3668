"""What is wrong with a run is found before anything starts, and has the place at which it is set."""

from pathlib import Path

import pytest

from isentrope.check.findings import Findings
from isentrope.config import load
from isentrope.errors import ConfigError


@pytest.mark.parametrize(("overrides", "place"), [((), "run.toml:19: "), (("learner.method=luffy",), "command line: ")])
def test_a_presets_key_has_the_place_of_the_method(run_file: Path, overrides: tuple[str, ...], place: str) -> None:
    run_file.write_text(run_file.read_text() + 'method = "luffy"\n')
    stages = Findings(*load(run_file, overrides)).stages()
    errors = next(errors for name, errors in stages if name == "objective")
    assert errors
    (error,) = errors
    assert isinstance(error, ConfigError)
    assert error.where == f"{place}learner.objective.aux.shaped_demonstration (set by luffy)"


def test_a_password_that_no_role_has_is_missed_before_the_run(
    run_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ISENTROPE_REDIS_URL", "redis://127.0.0.1:1")
    (tmp_path / "learner.password").write_text("secret")
    findings = Findings(*load(run_file, (f"redis.passwords={tmp_path}",)))
    (told,) = [errors for name, errors in findings.stages() if name == "machine"]
    missed = [error.what for error in told or [] if isinstance(error, ConfigError) and "password" in error.what]
    assert [Path(what.split()[3]).name for what in missed] == ["command.password", "actor.password"]
