"""Actors behind bad cables: one that is pulled in mid-run, one that is slow. Nothing is trained twice, nothing lost."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from machines import Switch, why_not
from port_run import PortRun
from waits import DEADLINE_S, wait_until

pytestmark = pytest.mark.slow

CUT_S = 14.0
"""Time without a cable, at least: beyond several heartbeats, within what TCP bears."""

SLOW = 2_000_000
"""Bits per second of the slow cable."""

LONG = 240_000
"""Tokens of a response of which a group of two takes longer on the slow cable than a connection may be silent."""


@pytest.fixture
def run(tmp_path: Path) -> Iterator[PortRun]:
    if reason := why_not():
        pytest.skip(reason)
    with Switch(tmp_path) as switch:
        yield PortRun(switch)


def test_a_cut_of_many_heartbeats_loses_nothing(
    run: PortRun, record_testsuite_property: Callable[[str, object], None]
) -> None:
    cut = run.add_actor("cut", tokens=20)
    run.add_actor("other", tokens=20)
    wait_until(lambda: run.by("cut.1") and run.by("other.1"), run.output)
    hold = cut.folder / "home" / "hold"
    hold.touch()
    wait_until(lambda: run.has_said("cut.1 holds"), run.output)
    cut.cut()
    hold.unlink()
    began, at = time.monotonic(), time.time()

    def others_go_on() -> bool:
        return run.has_said("cut.1 GONE") and bool(run.by("other.1", at)) and time.monotonic() - began >= CUT_S

    wait_until(others_go_on, run.output)
    cut.heal()
    healed = time.time()
    wait_until(lambda: run.by("cut.2", healed), run.output)
    back_s = run.by("cut.2", healed)[0] - healed
    record_testsuite_property("seconds to a batch with the actor's groups after its cable is healed", back_s)
    end = run.finish()
    assert end["exactly_once"] and end["counters"]["reaped"] >= 1


@pytest.mark.soak
def test_a_slow_cable_delivers_what_takes_longer_than_a_connection_may_be_silent(
    run: PortRun, record_testsuite_property: Callable[[str, object], None]
) -> None:
    since = time.time()
    run.add_actor("slow", tokens=LONG, bits_per_s=SLOW)
    wait_until(lambda: any(run.by(f"slow.{life}") for life in range(1, 9)), run.output, deadline_s=2 * DEADLINE_S)
    record_testsuite_property(
        "seconds to a batch of four groups of 4 MB each by a cable of 2 Mbit/s", time.time() - since
    )
    run.add_actor("fast", tokens=20)  # for the rest
    assert run.finish()["exactly_once"]
