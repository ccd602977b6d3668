"""The delivery protocol under every fault we can think of: hypothesis drives the real scripts on a real server.

Learner, storage and actors are the models of `protocol_model.py` and `protocol_actors.py`, on the real ports. After
every step: each seq is trained at most once (I1), with tokens of announced versions (I2) that are bound to one set of
weights (I3); nothing is evicted, missing from the byte count or left behind by a commit (I5); no byte budget holds the
next batch back, and what is retired gives its bytes back without one (I6); a restarted learner
reaches the weights its predecessor had while the broker kept its state (I7); a learner that was replaced completes
nothing (I8); a restart never begins behind the last readable checkpoint (I9); what is in a dead letter is not trained
before it is requeued (I10). In the end, faults off, the run makes
progress again (I4).

Faults are paid for with progress: an example that is nothing but faults trains nothing and finds nothing.

`ISENTROPE_TEST_SCALE=170 pytest tests/rollout/broker/test_protocol_machine.py` runs the nightly length (10,000
examples, about 40 minutes) with new examples every time, and checks that the machine fails for each of two dozen
protocols with one part removed.
"""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test
from protocol_machine import Protocol
from protocol_mutants import MUTANTS
from protocol_site import Site

from isentrope.rollout.broker import connection

SCALE = int(os.environ.get("ISENTROPE_TEST_SCALE", "1"))


@pytest.fixture
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    memory = Path("/dev/shm")
    folder = Path(str(tmp_path_factory.mktemp("site")))
    if os.access(memory, os.W_OK):
        folder = memory / f"isentrope-{os.getpid()}-{folder.name}"
        folder.mkdir()
    site = Site(folder)
    yield site
    site.server.stop()
    shutil.rmtree(folder)


def explore(site: Site, examples: int, *, new: bool, shrink: bool = True) -> None:
    """Run so many examples: the same ones every time, or new ones."""

    class Machine(Protocol):
        def __init__(self) -> None:
            super().__init__(site)

    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=60,
            deadline=None,
            derandomize=not new,
            database=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
            phases=[Phase.generate, Phase.shrink] if shrink else [Phase.generate],
            report_multiple_bugs=False,
        ),
    )


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_every_group_is_trained_once_whatever_happens(site: Site) -> None:
    explore(site, 60 * SCALE, new=SCALE > 1)


@pytest.mark.parametrize("name", MUTANTS)
def test_what_is_removed_is_there(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    MUTANTS[name](monkeypatch)
    for script in connection.SCRIPT_KEYS:
        connection._Script(script)


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.skipif(SCALE == 1, reason="takes as long as it takes; see above")
@pytest.mark.parametrize("name", MUTANTS)
def test_the_machine_fails_for_a_protocol_without(site: Site, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    MUTANTS[name](monkeypatch)
    with pytest.raises(Exception) as caught:
        explore(site, 4000, new=True, shrink=False)
    assert not isinstance(caught.value, pytest.fail.Exception)
