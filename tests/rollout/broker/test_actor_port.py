"""What an actor can rely on: leases, one publication, nothing lost by a lost reply."""

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from waits import wait_until
from wire_records import answer, make_actor_port, make_group, make_response

from isentrope.errors import InternalError, NameTakenError, RecordError
from isentrope.rollout.broker.actor_port import ActorPort, PublishResult
from isentrope.rollout.broker.connection import Broker
from isentrope.rollout.broker.learner_port import LearnerPort
from isentrope.rollout.broker.run_view import ActorStage, ActorState
from isentrope.rollout.wire.codec import decode_group, decode_missing
from isentrope.rollout.wire.types import EvalOrder, EvalResult, Missing, MissingReason, version_of
from isentrope.rollout.wire.validation import Limits

VERSION = version_of(1, 0)
FOREVER_S = 1e6


def issue(learner: LearnerPort, count: int) -> None:
    learner.issue(trained_batches=100, retired=0, limit=count)


def evaluate(learner: LearnerPort, *versions: int) -> None:
    learner.issue_eval([EvalOrder("held-out", index, version, 2, "") for index, version in enumerate(versions)])


# --- joining


def test_without_a_learner_there_are_no_orders(actor: ActorPort) -> None:
    assert actor.take(1, 0.0) == [] and actor.take_eval(1, 0.0, VERSION) == []


@pytest.mark.parametrize("name", ["", "-a", "a b", "a" * 65, "a/b", "!a"])
def test_an_actors_id_is_plain(broker: Broker, name: str) -> None:
    with pytest.raises(InternalError, match="not allowed"):
        make_actor_port(broker, name)


# --- leases


def test_orders_come_in_order_and_to_one_actor_each(learner: LearnerPort, broker: Broker) -> None:
    issue(learner, 8)
    actors = [make_actor_port(broker, "a1"), make_actor_port(broker, "a2")]
    taken = [actor.take(3, 0.0) for actor in actors for _ in range(2)]
    assert [order.seq for orders in taken for order in orders] == list(range(8))


def test_orders_that_came_back_go_first(learner: LearnerPort, broker: Broker) -> None:
    issue(learner, 8)
    first, second = make_actor_port(broker, "a1"), make_actor_port(broker, "a2")
    slow = first.take(3, 0.0)
    first.hand_back(slow[1:2])
    assert [order.seq for order in second.take(2, 0.0)] == [slow[1].seq, 3]


def test_take_waits_for_work_as_long_as_it_was_told_to(learner: LearnerPort, actor: ActorPort) -> None:
    started = time.monotonic()
    assert actor.take(1, 0.2) == []
    assert time.monotonic() - started >= 0.2


def test_a_blocked_take_never_keeps_more_than_it_was_asked_for(learner: LearnerPort, actor: ActorPort) -> None:
    """A blocked read counts per stream: with one order in each of two streams it returns both."""
    issue(learner, 2)
    actor.hand_back(actor.take(1, 0.0))
    both: Any = [actor.broker.keys.work_hi, actor.broker.keys.work]
    assert len(actor._lease(both, 1, 0.1)) == 2
    actor.hand_back(list(actor._held.values()))
    assert len(actor.take(1, 0.1)) == 1
    assert learner.view.queues()["leased"] == 1


def test_orders_that_are_published_meanwhile_never_show_up(learner: LearnerPort, broker: Broker) -> None:
    """Two leases of one order, as a reaper makes them while the owner lives."""
    issue(learner, 1)
    owner, other = make_actor_port(broker, "a1"), make_actor_port(broker, "a2")
    (order,) = owner.take(1, 0.0)
    assert broker.call("reap", "a1", "", 5) == 1
    assert owner.publish(answer(order), order) is PublishResult.DONE
    assert other.take(1, 0.0) == []
    assert learner.view.queues()["leased"] == learner.view.queues()["waiting"] == 0


def test_a_lost_lease_is_reported_and_its_group_counts_if_nobody_was_faster(
    learner: LearnerPort, broker: Broker
) -> None:
    issue(learner, 2)
    owner, other = make_actor_port(broker, "a1"), make_actor_port(broker, "a2")
    orders = owner.take(2, 0.0)
    assert owner.refresh(orders) == []
    broker.call("reap", "a1", "", 5)
    assert owner.refresh(orders) == orders
    again = other.take(2, 0.0)
    assert [(order.seq, order.attempt, order.tries) for order in again] == [(0, 0, 1), (1, 0, 1)]
    assert owner.publish(answer(orders[0]), orders[0]) is PublishResult.DONE
    assert other.publish(answer(again[0]), again[0]) is PublishResult.DUPLICATE
    assert other.publish(answer(again[1]), again[1]) is PublishResult.DONE
    assert learner.counters()["published"] == 2


def test_a_lease_whose_reply_was_lost_is_handed_back(learner: LearnerPort, actor: ActorPort) -> None:
    issue(learner, 2)
    work = actor.broker.keys.work
    actor.broker.run(lambda client: client.xreadgroup("actors", actor.actor, {work: ">"}, 1))
    actor.refresh([])  # may be a `take` that is under way
    assert learner.view.queues()["leased"] == 1
    actor.refresh([])
    assert learner.view.queues() == {**learner.view.queues(), "leased": 0, "waiting": 2}


def test_leaving_hands_everything_back(learner: LearnerPort, actor: ActorPort) -> None:
    issue(learner, 3)
    evaluate(learner, VERSION)
    actor.heartbeat(ActorState(id="a1"))
    actor.take(2, 0.0)
    actor.take_eval(1, 0.0, VERSION)
    actor.leave()
    assert learner.actors() == []
    assert learner.view.queues() == {**learner.view.queues(), "leased": 0, "waiting": 3}
    assert actor.eval_version(0) == VERSION


# --- publishing


def test_a_published_group_reaches_the_learner_once_however_often_it_is_sent(
    learner: LearnerPort, actor: ActorPort
) -> None:
    issue(learner, 1)
    (order,) = actor.take(1, 0.0)
    group = answer(order)
    assert [actor.publish(group, order) for _ in range(3)] == ["done", "duplicate", "duplicate"]
    (entry,) = learner.admit(5, 0.0)
    decoded = decode_group(entry.header, entry.payload, max_bytes=1 << 20, limits=Limits(50, group_size=2))
    assert (decoded.seq, decoded.actor, entry.kind) == (0, "a1", "group")
    assert learner.admit(5, 0.0) == []


def test_a_group_that_is_no_valid_record_is_the_senders_error(learner: LearnerPort, actor: ActorPort) -> None:
    issue(learner, 1)
    (order,) = actor.take(1, 0.0)
    with pytest.raises(RecordError, match="reward"):
        actor.publish(answer(order, responses=(make_response(VERSION, reward=float("nan")),)), order)
    with pytest.raises(RecordError, match="size"):
        make_actor_port(actor.broker, "a2", max_record_bytes=10).publish(answer(order), order)
    result = EvalResult("held-out", VERSION, make_group(version=VERSION))
    with pytest.raises(RecordError, match="size"):
        small = make_actor_port(actor.broker, "a2", max_record_bytes=10)
        small.publish_eval(result, EvalOrder("held-out", 0, VERSION, 2, "0-0"))
    with pytest.raises(InternalError, match="group 0/0 is not order"):
        actor.publish(answer(order), replace(order, seq=1))
    assert actor.refresh([order]) == []


def test_a_failed_order_becomes_a_tombstone(learner: LearnerPort, actor: ActorPort) -> None:
    issue(learner, 1)
    (order,) = actor.take(1, 0.0)
    assert actor.fail(order, "reward", "ZeroDivisionError\n" * 1000) is PublishResult.DONE
    (entry,) = learner.admit(5, 0.0)
    assert (entry.kind, entry.seq, entry.reason, entry.actor) == ("tombstone", 0, "reward", "a1")
    assert entry.detail.startswith("ZeroDivisionError") and len(entry.detail) == 2000
    assert (decode_missing(entry.header), entry.version) == ((), 0)


def test_a_tombstone_tells_which_responses_failed_and_by_which_weights(learner: LearnerPort, actor: ActorPort) -> None:
    issue(learner, 1)
    (order,) = actor.take(1, 0.0)
    lost = (Missing(0, MissingReason.REWARD, 7), Missing(1, MissingReason.ENGINE))
    actor.fail(order, "reward", "", lost, version=VERSION)
    (entry,) = learner.admit(5, 0.0)
    assert (decode_missing(entry.header), entry.version) == (lost, VERSION)


@pytest.mark.parametrize("text", ["", "x", "1", "1:2:3", "99:1", "-1:1", "1:" + "9" * 5000, b"\xff", "2:5,"])
def test_what_an_actor_tells_wrongly_of_failed_responses_is_nothing(text: str | bytes) -> None:
    assert decode_missing({"missing": text}) == ()


def test_what_an_actor_tells_of_failed_responses_is_bounded() -> None:
    lost = decode_missing({"missing": ",".join(["1:99999999999999", "1:-5"] * 5000)})
    assert len(lost) == 1024 and {each.tokens for each in lost} == {(1 << 31) - 1, 0}


def test_publishing_to_a_broker_that_has_lost_the_run_waits_for_its_learner(
    learner: LearnerPort, actor: ActorPort
) -> None:
    issue(learner, 1)
    (order,) = actor.take(1, 0.0)
    keys = actor.broker.keys
    actor.broker.run(lambda client: client.delete(*client.keys(f"{{{keys.run}}}:*")))
    assert actor.publish(answer(order), order) is PublishResult.FULL
    assert actor.take(1, 0.0) == [] and actor.refresh([order]) == [order]
    learner.refence(newest_claim=1, lwm=0, cursor=1)
    learner.reconcile([])
    assert actor.publish(answer(order), order) is PublishResult.DONE


# --- evaluation


def test_evaluation_orders_are_taken_by_version(learner: LearnerPort, actor: ActorPort) -> None:
    other = version_of(1, 1)
    evaluate(learner, other, VERSION, other, VERSION)
    assert actor.eval_version(VERSION) == VERSION
    assert actor.eval_version(version_of(1, 9)) == other
    taken = [order.index for _ in range(4) for order in actor.take_eval(2, 0.0, VERSION)]
    assert sorted(taken) == [1, 3]
    assert actor.eval_version(VERSION) == other
    assert sorted(order.index for _ in range(2) for order in actor.take_eval(2, 0.0, other)) == [0, 2]
    assert actor.eval_version(VERSION) is None


def test_an_evaluation_result_is_collected_once(learner: LearnerPort, actor: ActorPort) -> None:
    evaluate(learner, VERSION, VERSION)
    orders = actor.take_eval(2, 0.0, VERSION)
    for order in orders:
        result = EvalResult(order.name, order.version, make_group(order.index))
        assert [actor.publish_eval(result, order) for _ in range(2)] == ["done", "duplicate"]
    results = learner.admit_eval(10, 1.0)
    assert sorted(result.group.seq for result in results) == [0, 1]
    assert learner.admit_eval(10, 0.0) == []


def test_an_evaluation_order_that_fails_ends_without_responses(learner: LearnerPort, actor: ActorPort) -> None:
    evaluate(learner, VERSION)
    (order,) = actor.take_eval(1, 0.0, VERSION)
    actor.fail(order, "reward", "")
    (result,) = learner.admit_eval(1, 1.0)
    assert (result.name, result.group.seq, result.group.responses) == ("held-out", 0, ())


# --- heartbeats


def test_a_heartbeat_counts_up_and_shows(learner: LearnerPort, actor: ActorPort) -> None:
    for _ in range(2):
        assert actor.heartbeat(ActorState(id="ignored", state=ActorStage.SERVING, version=VERSION, digest="1.0"))
    (state,) = learner.actors()
    assert (state.id, state.beat, state.state, state.version) == ("a1", 2, ActorStage.SERVING, VERSION)


def test_an_actor_whose_leases_were_taken_away_learns_it(learner: LearnerPort, actor: ActorPort) -> None:
    actor.heartbeat(ActorState(id="a1"))
    record = actor.broker.run(lambda client: client.hget(actor.broker.keys.actors, "a1"))
    actor.broker.call("reap", "a1", record, 5)
    assert not actor.heartbeat(ActorState(id="a1"))
    assert learner.actors()[0].state is ActorStage.GONE


# --- one process for each id


def state_of(boot: str, **changes: Any) -> ActorState:
    return ActorState(id="a1", boot=boot, host="n1", pid=7, **changes)


def test_an_id_that_nobody_has_may_be_used_at_once(learner: LearnerPort, actor: ActorPort, broker: Broker) -> None:
    assert actor.enter("mine") and actor.heartbeat(state_of("mine"))
    assert actor.enter("mine"), "nor is one's own another's"
    broker.call("reap", "a1", broker.run(lambda client: client.hget(broker.keys.actors, "a1")), 5)
    assert make_actor_port(broker, "a1").enter("next"), "the next heartbeat learns that its leases were revoked"


def test_a_second_process_under_an_id_is_refused_while_the_record_of_the_first_moves(
    learner: LearnerPort, broker: Broker
) -> None:
    first, second = make_actor_port(broker, "a1"), make_actor_port(broker, "a1")
    first.heartbeat(state_of("first"))
    assert not second.enter("second")
    first.heartbeat(state_of("first"))
    with pytest.raises(NameTakenError, match="actor id 'a1' is in use: process 7 on n1"):
        second.enter("second")
    with pytest.raises(NameTakenError):
        second.heartbeat(state_of("second"))
    assert learner.actors()[0].boot == "first" and first.heartbeat(state_of("first"))


def test_of_two_processes_that_begin_at_once_one_gets_the_id(learner: LearnerPort, broker: Broker) -> None:
    first, second = make_actor_port(broker, "a1"), make_actor_port(broker, "a1")
    assert first.enter("first") and second.enter("second")
    assert first.heartbeat(state_of("first"))
    with pytest.raises(NameTakenError):
        second.heartbeat(state_of("second"))


def test_an_id_whose_process_is_silent_for_three_intervals_is_free_again(learner: LearnerPort, broker: Broker) -> None:
    old = make_actor_port(broker, "a1")
    new = make_actor_port(broker, "a1", heartbeat_s=1e-9)
    old.heartbeat(state_of("old"))
    assert [new.enter("new") for _ in range(5)] == [False, False, False, False, True]
    assert new.heartbeat(state_of("new"))
    with pytest.raises(NameTakenError):
        old.heartbeat(state_of("old"))


# --- turns


def test_one_actor_goes_back_for_an_evaluation_until_it_is_gone(learner: LearnerPort, broker: Broker) -> None:
    first, second = make_actor_port(broker, "a1"), make_actor_port(broker, "a2")
    first.heartbeat(ActorState(id="a1"))
    assert [first.my_turn(VERSION), second.my_turn(VERSION), first.my_turn(VERSION)] == [True, False, True]
    assert second.my_turn(VERSION + 1), "another version is another turn"
    broker.call("reap", "a1", broker.run(lambda client: client.hget(broker.keys.actors, "a1")), 5)
    second.heartbeat(ActorState(id="a2"))
    assert second.my_turn(VERSION) and not first.my_turn(VERSION + 1)


def test_whoever_waits_is_interrupted_and_what_it_was_given_meanwhile_is_handed_back(
    learner: LearnerPort, actor: ActorPort
) -> None:
    """The waits are longer than any test."""
    ended = threading.Event()

    def listen() -> None:
        while not ended.is_set():
            actor.news.wait(FOREVER_S)

    waits: list[Callable[[], object]] = [lambda: actor.take(1, FOREVER_S), listen]
    threads = [threading.Thread(target=wait) for wait in waits]
    for thread in threads:
        thread.start()
    clients = actor.broker
    wait_until(lambda: clients.run(lambda client: client.info("clients"))["blocked_clients"] >= 2, "two blocked reads")
    ended.set()
    actor.interrupt()
    for thread in threads:
        thread.join()
    issue(learner, 1)
    assert actor.take(1, FOREVER_S) == [], "nor is anything taken any more"
    actor.leave()
    assert learner.view.queues() == {**learner.view.queues(), "leased": 0, "waiting": 1}
