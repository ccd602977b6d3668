"""When Ray counts as lost; its questions are those that a run asks a real one."""

import signal
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from waits import wait_until

from isentrope.launch.ray_watch import RAY_GIVES_UP_S, STORE, RayWatch, allowed_tries

TRIES = allowed_tries()


class Store:
    """A control store that answers as planned, and then as it did last."""

    def __init__(self, answers: Sequence[bool]) -> None:
        self._plan: Iterator[bool] = iter(answers)
        self._last = answers[-1]
        self.asked = 0

    def __call__(self, timeout_s: float) -> None:
        self.asked += 1
        self._last = next(self._plan, self._last)
        if not self._last:
            raise TimeoutError


@given(st.lists(st.booleans(), min_size=1, max_size=20))
def test_it_is_lost_after_so_many_questions_in_a_row_and_not_before(answers: list[bool]) -> None:
    store = Store(answers)
    with RayWatch(store, "here", 0.0) as watch:
        wait_until(lambda: store.asked > len(answers) + TRIES, "questions")
        assert watch.is_lost is not answers[-1]


@pytest.mark.parametrize("silent", [TRIES - 1, TRIES])
def test_one_answer_is_enough(silent: int) -> None:
    store = Store([False] * silent + [True])
    with RayWatch(store, "here", 0.0) as watch:
        wait_until(lambda: store.asked > silent + 1, "an answer")
        assert not watch.is_lost


@pytest.mark.parametrize(("gives_up_s", "tries"), [("", 4), ("600", 40), ("1", 1)])
def test_ray_that_waits_longer_is_given_longer(monkeypatch: pytest.MonkeyPatch, gives_up_s: str, tries: int) -> None:
    monkeypatch.setenv(RAY_GIVES_UP_S, gives_up_s)
    assert allowed_tries() == tries


@pytest.mark.parametrize("answers", [True, False])
def test_a_store_of_the_commands_own_that_hangs_is_ended(tmp_path: Path, answers: bool) -> None:
    program = tmp_path / STORE
    program.write_text("#!/bin/sh\nread forever\n")
    program.chmod(0o755)
    with subprocess.Popen([program], stdin=subprocess.PIPE) as hanging:
        store = Store([answers])
        with RayWatch(store, "here", 0.0):
            wait_until(lambda: store.asked > TRIES, "questions")
        if answers:
            assert hanging.poll() is None
            hanging.kill()
        assert hanging.wait() == -signal.SIGKILL
