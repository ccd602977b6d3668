"""Soak tests that go on where a session was stopped: those that passed at this commit are left out."""

import subprocess
from pathlib import Path

import pytest

PASSED = "soak/passed"
"""Key in pytest's cache."""


def commit() -> str:
    """Return the short name of the commit that is checked out."""
    return subprocess.check_output(
        ["git", "rev-parse", "--short", "HEAD"], text=True, cwd=Path(__file__).parent
    ).strip()


class Resume:
    """Plugin that leaves out what has passed and keeps what passes. `--cache-clear` makes pytest forget it."""

    def __init__(self, cache: pytest.Cache) -> None:
        self._cache = cache
        self._commit = commit()
        kept = cache.get(PASSED, {})
        self._passed: list[str] = kept["tests"] if kept.get("commit") == self._commit else []

    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        """Leave out what has passed."""
        done = set(self._passed)
        config.hook.pytest_deselected(items=[item for item in items if item.nodeid in done])
        items[:] = [item for item in items if item.nodeid not in done]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep a test that passes."""
        if report.when == "call" and report.passed:
            self._passed.append(report.nodeid)
            self._cache.set(PASSED, {"commit": self._commit, "tests": self._passed})
