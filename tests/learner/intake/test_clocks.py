"""When the feeder's periodic steps are due."""

import pytest

from isentrope.learner.intake import clocks
from isentrope.learner.intake.clocks import Clocks


def test_a_step_is_due_at_first_and_again_after_its_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(clocks.time, "monotonic", lambda: now)
    made = Clocks()
    assert made.due("reap", 5.0) and not made.due("reap", 5.0)
    assert made.due("pending", 5.0), "each step has its own"
    now += 5.0
    assert made.due("reap", 5.0) and not made.due("reap", 5.0)
    assert made.quiet_s() == now - made.progressed_at


def test_a_low_watermark_that_stays_is_no_progress_even_if_there_is_some(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(clocks.time, "monotonic", lambda: now)
    made = Clocks()
    assert not made.stands_still(4, 60.0)
    found = []
    for later, lwm in ((150.0, 4), (161.0, 4), (165.0, 4), (230.0, 5), (280.0, 5), (295.0, 5)):
        now = later
        made.progress()
        found.append(made.stands_still(lwm, 60.0))
    assert found == [False, True, False, False, False, True]
    now = 400.0
    made.stands_still(6, 60.0)
    now = 461.0
    assert made.stands_still(7, 60.0), "nothing came"
