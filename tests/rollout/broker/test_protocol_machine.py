"""The delivery protocol under every fault we can think of: hypothesis drives the real scripts on a real server.

Feeder, ledger, dead letters and checkpoint store are the product's, without threads (`protocol_model.py`); the weights
and the actors (`protocol_actors.py`) are models, on the real ports. After every step: each seq is trained at most once
(I1), with tokens of announced versions (I2) that are bound to one set of weights (I3); nothing is evicted, missing from
the byte count or left behind by a commit (I5); no byte budget holds the next batch back, and what is retired gives its
bytes back without one (I6); a restarted learner reaches the weights its predecessor had while the broker kept its state
(I7); a learner that was replaced completes nothing (I8); a restart never begins behind the last readable checkpoint
(I9); what is in a dead letter is not trained before it is requeued (I10); an order whose actors die is retired in the
end (I11). Last, faults off, the run makes progress again (I4).

A schedule is one run that begins with an empty folder and an empty broker: sixteen steps, each of them one to three
rounds of work, one small act of one process, or a fault; then rounds without faults until three more batches are
trained and every order has ended. Faults are paid for with progress: nothing but faults would find nothing.

`make test` runs the same schedules every time. `make soak` runs others, by seed, on both servers, and shows for each of
two dozen protocols with one part removed that the machine fails for it; `docs/results/soak.json` has the sums.
"""

import os
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import totals
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import invariant, run_state_machine_as_test
from protocol_machine import Protocol
from protocol_mutants import MUTANTS
from protocol_site import Site
from servers import BOTH

from isentrope.rollout.broker import connection, learner_port

SCHEDULES = 400
STEPS = 16
"""Steps of a schedule."""

SOAK_SCHEDULES = 250
SOAK_SEEDS = range(1, 21)

MOST_SCHEDULES = 1000
"""Schedules within which the machine must fail for a protocol with one part removed."""


@pytest.fixture
def kind() -> str:
    """The server that a run finds; a test may name another one."""
    return "own"


@pytest.fixture
def site(kind: str, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setattr(learner_port, "wake", lambda broker: None)  # no actor waits for news
    memory = Path("/dev/shm")
    folder = Path(str(tmp_path_factory.mktemp("site")))
    if os.access(memory, os.W_OK):
        folder = memory / f"isentrope-{os.getpid()}-{folder.name}"
        folder.mkdir()
    site = Site(folder, kind)
    yield site
    site.server.stop()
    shutil.rmtree(folder)


def explore(site: Site, schedules: int, number: int, done: Counter[str], *, shrink: bool = True) -> None:
    """Run the schedules of the seed `number`, and count what they do in `done`."""

    @seed(number)
    class Machine(Protocol):
        def __init__(self) -> None:
            super().__init__(site)

        @invariant()
        def count(self) -> None:
            done["steps"] += 1

        def settle(self) -> None:
            super().settle()
            assert self.learner is not None
            done.update(schedules=1, batches=self.learner.batch)

    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=schedules,
            stateful_step_count=STEPS,
            deadline=None,
            derandomize=False,
            database=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
            phases=[Phase.generate, Phase.shrink] if shrink else [Phase.generate],
            report_multiple_bugs=False,
        ),
    )


def server_of(kind: str) -> str:
    """Return the name under which a server's sums are kept."""
    return "Redis 7" if kind == "redis-7" else "Redis 6.2"


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_every_group_is_trained_once_whatever_happens(site: Site) -> None:
    done: Counter[str] = Counter()
    explore(site, SCHEDULES, 0, done)
    assert done["schedules"] >= SCHEDULES


@pytest.mark.soak
@pytest.mark.parametrize("number", SOAK_SEEDS)
@pytest.mark.parametrize("kind", BOTH)
def test_every_group_is_trained_once_in_other_schedules(site: Site, kind: str, number: int) -> None:
    done = Counter(violations=0)
    explore(site, SOAK_SCHEDULES, number, done)
    assert done["schedules"] >= SOAK_SCHEDULES
    totals.add(f"schedules of the protocol, {server_of(kind)}", str(number), done)


@pytest.mark.parametrize("name", MUTANTS)
def test_what_is_removed_is_there(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    MUTANTS[name](monkeypatch)
    for script in connection.SCRIPT_KEYS:
        connection._Script(script)


@pytest.mark.soak
@pytest.mark.parametrize("name", MUTANTS)
@pytest.mark.parametrize("kind", BOTH)
def test_the_machine_fails_for_a_protocol_without(
    site: Site, monkeypatch: pytest.MonkeyPatch, kind: str, name: str
) -> None:
    MUTANTS[name](monkeypatch)
    done, began = Counter(schedules=0), time.monotonic()
    with pytest.raises(Exception) as caught:
        explore(site, MOST_SCHEDULES, 0, done, shrink=False)
    assert not isinstance(caught.value, pytest.fail.Exception)
    found = {"seconds": round(time.monotonic() - began, 1), "schedules before": done["schedules"]}
    totals.add(f"protocols with one part removed, {server_of(kind)}", name, found)
