"""A wait for others: the other ranks hear of it at every tick, and it ends after a deadline without progress."""

from collections.abc import Callable
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isentrope.errors import StalledError
from isentrope.learner.training import waiting
from isentrope.learner.training.rank_group import RankGroup
from isentrope.learner.training.waiting import SLICE_S, StopAsked, Wait

TIMEOUT_S = 10.0


class Idle:
    """A rank group that counts its idle orders."""

    def __init__(self) -> None:
        self.orders = 0

    def idle(self) -> None:
        self.orders += 1


def play(steps: list[tuple[float, bool]], tick: Callable[[Wait, float], None]) -> int:
    """Go through `steps`: seconds that pass, and whether something came then; returns the idle orders."""
    now, idle = [0.0], Idle()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(waiting.time, "monotonic", lambda: now[0])
        wait = Wait(cast(RankGroup, idle), TIMEOUT_S, lambda: "a2 is silent", "batch 7")
        moved = 0.0
        for seconds, came in steps:
            now[0] += seconds
            if came:
                wait.progress()
                moved = now[0]
            tick(wait, now[0] - moved)
    return idle.orders


@given(st.lists(st.tuples(st.floats(0.0, 2 * TIMEOUT_S), st.booleans()), max_size=20))
def test_a_wait_ends_when_nothing_has_moved_for_too_long_and_only_then(steps: list[tuple[float, bool]]) -> None:
    def tick(wait: Wait, quiet_s: float) -> None:
        if quiet_s > TIMEOUT_S:
            with pytest.raises(StalledError):
                wait.tick()
        else:
            wait.tick()

    assert play(steps, tick) == len(steps)


def test_the_error_names_who_and_what_is_waited_for() -> None:
    with pytest.raises(StalledError) as caught:
        play([(11.0, False)], lambda wait, _: wait.tick())
    assert caught.value.what == "no progress for 11 s: a2 is silent"
    assert caught.value.where == "waiting for batch 7"


def test_a_wait_is_logged_once_within_ten_seconds_and_names_who_and_what(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        play([(1.0, False), (8.0, False), (1.0, False)], lambda wait, _: wait.tick())
    assert caplog.messages == ["waiting for batch 7: a2 is silent"]


@given(st.lists(st.floats(0.01, SLICE_S), max_size=20), st.integers(0, 20))
def test_a_stop_is_heard_within_two_slices(steps: list[float], asked_at: int) -> None:
    now, asked, heard = [0.0], [False], 0.0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(waiting.time, "monotonic", lambda: now[0])
        wait = Wait(cast(RankGroup, Idle()), 1000.0, lambda: "", "batch 7", lambda: asked[0])
        for number, seconds in enumerate(steps):
            asked[0] = asked[0] or number >= asked_at
            now[0] += seconds
            try:
                wait.tick()
                heard += seconds if asked[0] else 0.0
            except StopAsked:
                assert asked[0]
                return
            assert heard <= 2 * SLICE_S
