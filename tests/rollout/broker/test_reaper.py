"""Leases are taken from actors that are gone, from nobody else, and by the reaper's own clock."""

import logging
from collections.abc import Callable

import pytest
from wire_records import make_actor_port, make_weights

from isentrope.rollout.broker.actor_port import ActorPort
from isentrope.rollout.broker.connection import Broker
from isentrope.rollout.broker.learner_port import LearnerPort
from isentrope.rollout.broker.reaper import FORGET_BEATS, SILENT_BEATS, Reaper, SpareReaper
from isentrope.rollout.broker.run_view import ActorStage, ActorState
from isentrope.rollout.config import LeaseConfig
from isentrope.rollout.wire.types import EvalOrder

BEAT = 5.0
VERSION = make_weights().version


class Clock:
    """Monotonic seconds in the test's hands."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def reaper(broker: Broker, clock: Clock) -> Reaper:
    return Reaper(broker, LeaseConfig(heartbeat_s=BEAT, max_tries=3), me="me", clock=clock)


@pytest.fixture
def wait(reaper: Reaper, clock: Clock) -> Callable[..., int]:
    """Lets time pass in steps of one interval with a look after each; returns what was taken."""

    def wait(beats: int) -> int:
        taken = 0
        for _ in range(beats):
            clock.now += BEAT
            taken += reaper.reap()
        return taken

    return wait


def busy_actor(learner: LearnerPort, broker: Broker, name: str, orders: int = 2) -> ActorPort:
    actor = make_actor_port(broker, name)
    actor.heartbeat(ActorState(id=name))
    learner.issue(trained_batches=100, retired=0, limit=learner.view.cursor() + orders)
    actor.take(orders, 0.0)
    return actor


def test_a_silent_actor_is_reaped_after_three_intervals(
    learner: LearnerPort, broker: Broker, reaper: Reaper, wait: Callable[..., int], caplog: pytest.LogCaptureFixture
) -> None:
    busy_actor(learner, broker, "a3")
    assert reaper.reap() == 0
    assert wait(SILENT_BEATS) == 0
    with caplog.at_level(logging.WARNING):
        assert wait(1) == 2
    assert "a3 GONE: no heartbeat for 20 s, 2 leases re-queued" in caplog.text
    assert learner.view.queues() == {**learner.view.queues(), "leased": 0, "waiting": 2}
    assert learner.actors()[0].state is ActorStage.GONE
    assert wait(10) == 0, "once is enough"


def test_what_a_process_held_that_has_ended_is_taken_at_once_and_nothing_of_others(
    learner: LearnerPort, broker: Broker, reaper: Reaper
) -> None:
    """It came back under a second id, and the first is another process's by now."""
    held = {"a1": "other", "a1.2": "ended", "a1.3": "ended", "a2": "third", "a3": ""}
    for name, boot in held.items():
        actor = make_actor_port(broker, name)
        assert actor.heartbeat(ActorState(id=name, boot=boot))
        learner.issue(trained_batches=100, retired=0, limit=learner.view.cursor() + 2)
        assert len(actor.take(2, 0.0)) == 2
    assert reaper.revoke_process("ended") == 4
    assert learner.view.queues() == {**learner.view.queues(), "leased": 6, "waiting": 4}
    gone = {state.id for state in learner.actors() if state.state is ActorStage.GONE}
    assert gone == {"a1.2", "a1.3"} and learner.counters()["deaths"] == 2
    assert reaper.revoke_process("ended") == 0 and learner.counters()["deaths"] == 2


def test_an_actor_whose_counter_moves_is_left_alone(
    learner: LearnerPort, broker: Broker, reaper: Reaper, wait: Callable[..., int]
) -> None:
    actor = busy_actor(learner, broker, "a1")
    reaper.reap()
    for _ in range(5):
        assert wait(SILENT_BEATS) == 0
        assert actor.heartbeat(ActorState(id="a1"))


def test_a_reaper_that_was_stopped_accuses_nobody(
    learner: LearnerPort, broker: Broker, reaper: Reaper, clock: Clock
) -> None:
    """An hour without a look counts as one interval: the broker may have been away, or this process."""
    busy_actor(learner, broker, "a1")
    for _ in range(SILENT_BEATS + 1):
        clock.now += 3600
        assert reaper.reap() == 0


def test_looks_in_quick_succession_count_as_the_time_they_take(
    learner: LearnerPort, broker: Broker, reaper: Reaper, clock: Clock
) -> None:
    busy_actor(learner, broker, "a1")
    for _ in range(100):
        clock.now += 0.01
        assert reaper.reap() == 0


def test_the_servers_clock_does_not_matter(
    learner: LearnerPort, broker: Broker, reaper: Reaper, wait: Callable[..., int]
) -> None:
    """Idle times of Redis follow its wall clock; here they say an hour, and nothing happens."""
    busy_actor(learner, broker, "a1", orders=1)
    work = broker.keys.work
    (lease,) = broker.run(lambda client: client.xpending_range(work, "actors", "-", "+", 1))
    broker.run(lambda client: client.xclaim(work, "actors", "a1", 0, [lease["message_id"]], idle=3_600_000))
    reaper.reap()
    assert wait(SILENT_BEATS) == 0


def test_an_actor_that_never_sent_a_heartbeat_is_reaped_too(
    learner: LearnerPort, broker: Broker, reaper: Reaper, wait: Callable[..., int]
) -> None:
    learner.issue(trained_batches=100, retired=0, limit=1)
    make_actor_port(broker, "a1").take(1, 0.0)
    reaper.reap()
    assert wait(SILENT_BEATS + 1) == 1


def test_the_caller_never_accuses_itself(
    learner: LearnerPort, broker: Broker, reaper: Reaper, wait: Callable[..., int]
) -> None:
    busy_actor(learner, broker, "me")
    reaper.reap()
    assert wait(20) == 0


def test_two_reapers_take_each_lease_once(learner: LearnerPort, broker: Broker) -> None:
    clock = Clock()
    reapers = [Reaper(broker, LeaseConfig(heartbeat_s=BEAT), clock=clock) for _ in range(2)]
    busy_actor(learner, broker, "a1")
    taken = 0
    for _ in range(SILENT_BEATS + 3):
        taken += sum(reaper.reap() for reaper in reapers)
        clock.now += BEAT
    assert taken == 2


def test_a_heartbeat_between_look_and_accusation_saves_the_actor(learner: LearnerPort, broker: Broker) -> None:
    actor = busy_actor(learner, broker, "a1")
    seen = broker.run(lambda client: client.hget(broker.keys.actors, "a1"))
    actor.heartbeat(ActorState(id="a1"))
    assert broker.call("reap", "a1", seen, 3) == -1
    assert actor.heartbeat(ActorState(id="a1"))
    assert learner.view.queues()["leased"] == 2


def test_an_order_whose_leases_keep_dying_is_retired(
    learner: LearnerPort, broker: Broker, reaper: Reaper, wait: Callable[..., int]
) -> None:
    learner.issue(trained_batches=100, retired=0, limit=1)
    learner.issue_eval([EvalOrder("held-out", 0, VERSION, 2, "")])
    for life in range(3):
        actor = make_actor_port(broker, f"a{life}")
        (order,) = actor.take(1, 0.0)
        actor.take_eval(1, 0.0, VERSION)
        assert (order.seq, order.attempt, order.tries) == (0, 0, life)
        reaper.reap()
        assert wait(SILENT_BEATS + 1) == 2
    (entry,) = learner.admit(5, 0.0)
    assert (entry.kind, entry.seq, entry.reason, entry.detail) == ("tombstone", 0, "tries", "3 leases died")
    (result,) = learner.admit_eval(5, 0.0)
    assert result.group.responses == ()
    assert learner.view.queues() == {"waiting": 0, "leased": 0, "unread": 0, "uncommitted": 1, "eval": 0}


def test_records_of_the_dead_are_forgotten_in_the_end(
    learner: LearnerPort, broker: Broker, reaper: Reaper, wait: Callable[..., int]
) -> None:
    busy_actor(learner, broker, "a1")
    reaper.reap()
    wait(FORGET_BEATS)
    assert [state.state for state in learner.actors()] == [ActorStage.GONE]
    wait(SILENT_BEATS + 3)
    assert learner.actors() == []


def test_an_unreadable_record_is_no_obstacle(
    learner: LearnerPort, broker: Broker, reaper: Reaper, wait: Callable[..., int]
) -> None:
    broker.run(lambda client: client.hset(broker.keys.actors, "a1", b"\xff{"))
    assert learner.actors()[0].last_error == "unreadable heartbeat"
    reaper.reap()
    wait(SILENT_BEATS + 1)


# --- who reaps


def test_actors_leave_it_to_the_learner_and_one_does_it_while_the_learner_is_silent(
    learner: LearnerPort, broker: Broker, clock: Clock
) -> None:
    spares = [SpareReaper(broker, LeaseConfig(heartbeat_s=BEAT), f"s{number}", clock) for number in range(3)]
    busy_actor(learner, broker, "a1")
    reads = _scans(broker)

    def live(beats: int, *, with_learner: bool) -> int:
        taken = 0
        for _ in range(beats):
            clock.now += BEAT
            taken += learner.reap() if with_learner else 0
            taken += sum(spare.reap() for spare in spares)
        return taken

    assert live(10, with_learner=True) == 0
    assert _scans(broker) - reads == 10, "of all records, by the learner alone"
    assert live(SILENT_BEATS, with_learner=False) == 0
    assert live(SILENT_BEATS + 1, with_learner=False) == 0, "it has just begun to look"
    assert live(1, with_learner=False) == 2
    reads = _scans(broker)
    assert live(5, with_learner=False) == 0
    assert _scans(broker) - reads == 5, "one actor"
    live(1, with_learner=True)
    reads = _scans(broker)
    live(3, with_learner=True)
    assert _scans(broker) - reads == 3, "the learner again"


def test_an_actor_that_reaps_and_dies_is_followed_by_another(broker: Broker, clock: Clock) -> None:
    first, second = (SpareReaper(broker, LeaseConfig(heartbeat_s=BEAT), name, clock) for name in ("s1", "s2"))

    def record() -> bytes:
        return bytes(broker.run(lambda client: client.hget(broker.keys.reaper, "record")))

    for _ in range(SILENT_BEATS + 2):
        clock.now += BEAT
        first.reap()
        second.reap()
    assert record().startswith(b"s1 ")
    for _ in range(SILENT_BEATS + 2):
        clock.now += BEAT
        second.reap()
    assert record().startswith(b"s2 ")


def _scans(broker: Broker) -> int:
    """Reads of whole hashes by anybody, as the server counts them."""
    return int(broker.run(lambda client: client.info("commandstats")).get("cmdstat_hgetall", {"calls": 0})["calls"])
