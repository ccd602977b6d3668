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
