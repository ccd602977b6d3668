"""An actor whose cable is pulled in mid-run: nothing is trained twice, nothing is lost, and it comes back by itself."""

import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from lab import start_broker
from machines import Command, Switch, why_not
from waits import wait_until

pytestmark = pytest.mark.slow

RUN = "cut"
CUT_S = 14.0
"""Time without a cable, at least: beyond several heartbeats, within what TCP bears."""

TESTS = Path(__file__).resolve().parents[1]
PATHS = [TESTS.parent / "src", *(TESTS / part for part in ("support", "rollout", "learner/intake", "system"))]


@pytest.fixture
def switch(tmp_path: Path) -> Iterator[Switch]:
    if reason := why_not():
        pytest.skip(reason)
    with Switch(tmp_path) as switch:
        yield switch


def trained(learner: Command) -> list[dict[str, Any]]:
    """Return what the learner has told of every batch."""
    lines = [line for line in learner.output.splitlines(keepends=True) if line.startswith('{"batch"')]
    return [json.loads(line) for line in lines if line.endswith("\n")]


def test_a_cut_of_many_heartbeats_loses_nothing(
    switch: Switch, record_testsuite_property: Callable[[str, object], None]
) -> None:
    url = start_broker(switch)
    env = {"PYTHONPATH": ":".join(map(str, PATHS))}
    ends = str(TESTS / "system" / "port_ends.py")
    home, cut, other = (switch.add(name) for name in ("learner", "cut", "other"))
    learner = home.start(sys.executable, ends, "learner", url, RUN, env=env)
    actors = [each.start(sys.executable, ends, "actor", url, RUN, each.name, "20", env=env) for each in (cut, other)]

    def said() -> str:
        return "\n\n".join(each.output[-2000:] for each in (learner, *actors))

    def by(actor: str, since: float = 0.0) -> list[float]:
        """Return when batches with a group of `actor` were trained, from `since` on."""
        return [line["at"] for line in trained(learner) if line["at"] >= since and actor in line["actors"]]

    wait_until(lambda: by("cut.1") and by("other.1"), said)
    hold = cut.folder / "home" / "hold"
    hold.touch()
    wait_until(lambda: "cut.1 holds" in said(), said)
    cut.cut()
    hold.unlink()
    began, at = time.monotonic(), time.time()

    def gone() -> bool:
        return any("cut.1 GONE" in each.output for each in (learner, *actors))

    wait_until(lambda: gone() and by("other.1", at) and time.monotonic() - began >= CUT_S, said)
    cut.heal()
    healed = time.time()
    wait_until(lambda: by("cut.2", healed), said)
    back_s = by("cut.2", healed)[0] - healed
    record_testsuite_property("seconds to a batch with the actor's groups after its cable is healed", back_s)
    (home.folder / "home" / "finish").touch()
    assert learner.wait(240.0) == 0, said()
    end = json.loads(learner.output.splitlines()[-1])
    assert end["exactly_once"] and end["counters"]["reaped"] >= 1
    assert [line["batch"] for line in trained(learner)] == [*range(1, len(trained(learner)) + 1)]
