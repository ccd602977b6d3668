"""What is pinned: what presets suggest otherwise, and nothing else; with it every method can run."""

from pathlib import Path

import pytest

from isentrope.comparison.pins import Method, Pin, pins
from isentrope.errors import ConfigError
from isentrope.runfile import read


def _pins(run_file: Path, *methods: str, overrides: tuple[str, ...] = ()) -> dict[str, Pin]:
    wanted = [Method(tuple(each.split("+"))) for each in methods]
    return {pin.key: pin for pin in pins(read(run_file, overrides), wanted)}


def _without_updates(run_file: Path) -> Path:
    run_file.write_text(run_file.read_text().replace("updates_per_batch = 2\n", ""))
    return run_file


def test_methods_that_suggest_the_same_are_not_pinned(run_file: Path) -> None:
    assert _pins(run_file, "grpo", "grpo+top_entropy") == {}


def test_what_methods_suggest_otherwise_is_pinned_and_said(run_file: Path) -> None:
    """grpo leaves the age of tokens open, and gpg wants 0, as without a clip nothing bounds an older token."""
    found = _pins(run_file, "grpo", "gpg")
    pin = found["learner.staleness.max_lag"]
    assert pin.wanted["gpg"] == 0 and pin.wanted["grpo"] > 0
    assert f"pinned: learner.staleness.max_lag = {pin.value:g} for all" in pin.sentence
    assert "gpg: 0" in pin.sentence


def test_what_the_run_file_sets_is_not_pinned(run_file: Path) -> None:
    keys = _pins(run_file, "grpo", "psr")
    assert "learner.updates_per_batch" not in keys
    keys = _pins(_without_updates(run_file), "grpo", "psr")
    assert "learner.updates_per_batch" in keys


def test_most_methods_decide(run_file: Path) -> None:
    found = _pins(_without_updates(run_file), "grpo", "psr", "nsr")
    assert found["learner.updates_per_batch"].value == found["learner.updates_per_batch"].wanted["nsr"] == 4


def test_an_unknown_method_is_named(run_file: Path) -> None:
    with pytest.raises(ConfigError, match=r"method grpoo: .*grpoo"):
        _pins(run_file, "grpo", "grpoo")


def test_a_method_that_needs_what_is_not_there_says_which(run_file: Path) -> None:
    with pytest.raises(ConfigError, match=r"method opd: .*teacher"):
        _pins(run_file, "grpo", "opd")
