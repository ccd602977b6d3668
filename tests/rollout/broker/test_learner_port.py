"""What the learner can rely on: nothing admitted is lost, nothing committed comes back, a lost broker is rebuilt."""

from typing import Any

import pytest
from wire_records import ASYNC, VOCABULARY, answer, make_actor_port, make_group, make_spec, make_weights

from isentrope.errors import BrokerChangedError, FencedError, UnreachableError
from isentrope.redis_server import RedisServer
from isentrope.rollout.broker.actor_port import ActorPort, PublishResult
from isentrope.rollout.broker.connection import Broker
from isentrope.rollout.broker.keys import ACTORS
from isentrope.rollout.broker.learner_port import LearnerPort
from isentrope.rollout.broker.run_view import RunView
from isentrope.rollout.wire.control import Control, Mode, RunState
from isentrope.rollout.wire.types import EvalOrder, EvalResult, version_of

VERSION = version_of(1, 0)


def issue(learner: LearnerPort, count: int) -> None:
    learner.issue(trained_batches=100, retired=0, limit=count)


def work(actor: ActorPort, count: int) -> list[int]:
    """Take and publish up to `count` orders; returns their seqs."""
    orders = actor.take(count, 0.0)
    for order in orders:
        assert actor.publish(answer(order), order) is PublishResult.DONE
    return [order.seq for order in orders]


# --- admission of groups


def test_orders_carry_the_newest_announced_version(learner: LearnerPort, actor: ActorPort) -> None:
    learner.announce(make_weights(1, 3))
    issue(learner, 1)
    (order,) = actor.take(1, 0.0)
    assert (order.min_version, order.incarnation) == (version_of(1, 3), 1)


def test_more_orders_than_one_call_makes(learner: LearnerPort) -> None:
    assert learner.issue(trained_batches=1000, retired=0, limit=700) == 700
    assert learner.view.queues()["waiting"] == 700


def test_groups_come_in_the_order_of_publication_and_stay_until_commit(learner: LearnerPort, actor: ActorPort) -> None:
    issue(learner, 4)
    work(actor, 4)
    entries = learner.admit(3, 0.0) + learner.admit(3, 0.0)
    assert [entry.seq for entry in entries] == [0, 1, 2, 3]
    assert learner.fetch([entry.id for entry in reversed(entries)]) == list(reversed(entries))
    learner.commit(entries=[entry.id for entry in entries[:2]], lwm=2, ckpt="step 1", plans=[])
    assert [entry.seq for entry in learner.fetch([entry.id for entry in entries])] == [2, 3]
    assert (learner.view.checkpoint(), learner.counters()["bytes"]) == ("step 1", learner.view.counters()["bytes"])


def test_a_read_whose_reply_was_lost_is_found_again_once(learner: LearnerPort, actor: ActorPort) -> None:
    issue(learner, 3)
    work(actor, 3)
    keys = learner.broker.keys
    learner.broker.run(lambda client: client.xreadgroup("learner", "learner", {keys.traj: ">"}, 2))
    assert [entry.seq for entry in learner.admit(5, 0.0)] == [2]
    assert [entry.seq for entry in learner.pending()] == [0, 1]
    assert learner.pending() == []


def test_a_successor_inherits_what_was_read(learner: LearnerPort, actor: ActorPort) -> None:
    issue(learner, 3)
    work(actor, 3)
    learner.admit(2, 0.0)
    successor = LearnerPort.fence(learner.broker, 2, 0, 0, learner.spec, ASYNC)
    assert [entry.seq for entry in successor.pending()] == [0, 1]
    assert [entry.seq for entry in successor.admit(5, 0.0)] == [2]


def test_an_entry_that_is_no_record_is_removed_and_its_seq_made_again(learner: LearnerPort, actor: ActorPort) -> None:
    issue(learner, 1)
    (order,) = actor.take(1, 0.0)
    lease: tuple[Any, ...] = (order.entry_id, 0, 0, 3, "published")
    actor.broker.call("publish", *lease, "seq", "x", "payload", b"abc", keys=[order.stream])
    assert learner.admit(5, 0.0) == []
    assert learner.view.queues()["uncommitted"] == learner.counters()["bytes"] == 0
    assert learner.reconcile([]) == 1
    assert work(actor, 1) == [0]


def test_a_duplicate_is_dropped(learner: LearnerPort, actor: ActorPort) -> None:
    issue(learner, 1)
    work(actor, 1)
    learner.drop(learner.admit(1, 0.0))
    assert learner.pending() == [] and learner.view.queues()["uncommitted"] == 0


def test_orders_that_are_held_back_are_withdrawn_and_come_in_their_turn(learner: LearnerPort, actor: ActorPort) -> None:
    issue(learner, 5)
    orders = actor.take(4, 0.0)
    assert learner.reconcile([], held_from=2) == 0
    done, duplicate = PublishResult.DONE, PublishResult.DUPLICATE
    assert [actor.publish(answer(order), order) for order in orders] == [done, done, duplicate, duplicate]
    assert work(actor, 9) == []
    assert learner.reconcile([0, 1]) == 3
    assert work(actor, 9) == [2, 3, 4]


# --- plans and commits


def test_plans_come_back_in_order_until_they_are_committed(learner: LearnerPort) -> None:
    for batch in (10, 9, 11):
        learner.plan(batch, b"\x00plan %d" % batch)
    assert learner.plans() == {9: b"\x00plan 9", 10: b"\x00plan 10", 11: b"\x00plan 11"}
    learner.commit(entries=[], lwm=0, ckpt="c", plans=[9, 10])
    assert list(learner.plans()) == [11]


def test_commit_forgets_marks_below_the_watermark_and_never_lowers_it(learner: LearnerPort, actor: ActorPort) -> None:
    issue(learner, 4)
    work(actor, 4)
    ids = [entry.id for entry in learner.admit(4, 0.0)]
    for lwm in (3, 1):
        learner.commit(entries=ids, lwm=lwm, ckpt="c", plans=[])
        marks = learner.broker.run(lambda client: client.hkeys(learner.broker.keys.pub))
        assert marks == [b"3"]


def test_thousands_of_entries_are_committed_in_pieces(learner: LearnerPort) -> None:
    ids = [f"1-{number}" for number in range(1, 1201)]
    learner.commit(entries=ids, lwm=0, ckpt="c", plans=[])
    assert learner.view.checkpoint() == "c"


# --- control


@pytest.mark.parametrize("verb", ["async", "on_policy", "stop"])
def test_a_request_is_open_until_it_is_answered(learner: LearnerPort, verb: Any) -> None:
    view = RunView(learner.broker)
    view.request(verb)
    asked = learner.control()
    assert (asked.requested_mode, asked.requested_stop) == ((None, True) if verb == "stop" else (Mode(verb), False))
    learner.set_control(asked)  # not answered yet
    assert learner.control() == asked
    closed = asked.model_copy(update={"requested_mode": None, "requested_stop": False, "note": "refused: inert"})
    learner.set_control(closed)
    now = learner.control()
    assert (now.requested_mode, now.requested_stop, now.note) == (None, False, "refused: inert")


@pytest.mark.parametrize("fields", [{"id": "x"}, {"id": "x", "verb": "dance"}, {"verb": "stop"}, {"id": b"\xff"}])
def test_a_request_that_is_none_of_this_program_asks_for_nothing(learner: LearnerPort, fields: Any) -> None:
    """It may be of a later version: the learner answers it with a note."""
    learner.broker.run(lambda client: client.hset(learner.broker.keys.request, mapping=fields))
    asked = learner.control()
    assert (asked.requested_mode, asked.requested_stop) == (None, False)
    assert bool(asked.request) is ("id" in fields)
    learner.set_control(asked.model_copy(update={"note": "not one of this program"}))
    assert learner.control().request == ""


def test_a_later_request_replaces_an_open_one_and_comes_after_an_answered_one(learner: LearnerPort) -> None:
    view = RunView(learner.broker)
    view.request("stop")
    view.request("on_policy")
    asked = learner.control()
    assert asked.requested_mode is Mode.ON_POLICY and not asked.requested_stop
    view.request("stop")
    learner.set_control(asked.model_copy(update={"mode": Mode.ON_POLICY, "requested_mode": None}))
    assert learner.control().requested_stop


def test_a_stop_that_was_answered_does_not_stop_the_next_learner(learner: LearnerPort) -> None:
    RunView(learner.broker).request("stop")
    learner.set_control(Control(mode=Mode.ASYNC, max_lag=1, state=RunState.STOP, request=learner.control().request))
    successor = LearnerPort.fence(learner.broker, 2, 0, 0, learner.spec, ASYNC)
    assert not successor.control().requested_stop
    successor.set_control(ASYNC)  # built anew, without the id of the last request
    assert not successor.control().requested_stop


# --- reports and actors


def test_reported_counters_stand_beside_the_protocols_own(learner: LearnerPort) -> None:
    issue(learner, 2)
    learner.report({"trained": 5, "retired": 1})
    assert learner.counters() == {"issued": 2, "trained": 5, "retired": 1}


def test_the_learner_reaps_too(redis_server: str, run_name: str) -> None:
    broker = Broker.connect(redis_server, run_name)
    learner = LearnerPort.fence(broker, 1, 0, 0, make_spec(run_name, heartbeat_s=1e-9), ASYNC)
    issue(learner, 1)
    make_actor_port(broker, "a1").take(1, 0.0)
    assert [learner.reap() for _ in range(5)] == [0, 0, 0, 0, 1]
    broker.close()


# --- evaluation


def test_evaluations_that_are_not_asked_for_any_more_are_ignored(learner: LearnerPort, actor: ActorPort) -> None:
    learner.issue_eval([EvalOrder("held-out", 0, VERSION, 2, "")])
    (order,) = actor.take_eval(1, 0.0, VERSION)
    successor = LearnerPort.fence(learner.broker, 2, 0, 0, learner.spec, ASYNC)
    assert actor.publish_eval(EvalResult("held-out", VERSION, make_group(0)), order) == PublishResult.DUPLICATE
    assert successor.admit_eval(5, 0.0) == []


def test_an_evaluation_result_that_is_no_record_ends_its_order_without_an_answer(
    learner: LearnerPort, actor: ActorPort
) -> None:
    learner.issue_eval([EvalOrder("held-out", 0, VERSION, 2, "")])
    (order,) = actor.take_eval(1, 0.0, VERSION)
    beyond = make_group(0, prompt=make_group().prompt + VOCABULARY)
    actor.publish_eval(EvalResult("held-out", VERSION, beyond), order)
    (result,) = learner.admit_eval(5, 0.0)
    assert (result.name, result.group.seq, result.version, result.group.responses) == ("held-out", 0, VERSION, ())
    assert learner.view.queues()["eval"] == 0


# --- a broker that comes back


def test_after_a_restart_everything_is_refused_until_the_learner_has_met_the_server_again(server: RedisServer) -> None:
    learner = LearnerPort.fence(Broker.connect(server.url, "r"), 1, 0, 0, make_spec("r"), ASYNC)
    actor = make_actor_port(Broker.connect(server.url, "r"), "a1")
    issue(learner, 4)
    work(actor, 3)
    learner.admit(2, 0.0)
    server.restart()
    calls = [lambda: issue(learner, 9), lambda: learner.admit(1, 0.0), lambda: learner.plan(1, b""), learner.pending]
    for call in calls:
        with pytest.raises(BrokerChangedError):
            call()
    learner.refence(newest_claim=1, lwm=0, cursor=4)
    assert [entry.seq for entry in learner.pending() + learner.admit(9, 0.0)] == [0, 1, 2]
    assert learner.reconcile([0, 1, 2]) == 0
    assert work(actor, 4) == [3]


def test_a_broker_that_lost_everything_is_rebuilt_from_the_learners_memory(server: RedisServer) -> None:
    learner = LearnerPort.fence(Broker.connect(server.url, "r"), 1, 0, 0, make_spec("r"), ASYNC)
    actor = make_actor_port(Broker.connect(server.url, "r"), "a1")
    learner.announce(make_weights(1, 2))
    learner.set_control(ASYNC.model_copy(update={"mode": Mode.ON_POLICY}))
    learner.issue_eval([EvalOrder("held-out", 0, version_of(1, 2), 2, "")])
    issue(learner, 6)
    learner.broker.run(lambda client: client.flushall())
    server.restart()
    learner.refence(newest_claim=1, lwm=2, cursor=6)
    assert learner.reconcile([3]) == 3
    learner.admit_eval(1, 0.0)
    assert actor.view.weights() == make_weights(1, 2)
    control = actor.view.control_state()
    assert control is not None and control.mode is Mode.ON_POLICY
    assert actor.eval_version(0) == version_of(1, 2)
    assert work(actor, 9) == [2, 4, 5]
    assert issue(learner, 7) is None and work(actor, 9) == [6]


@pytest.mark.parametrize("leased", [False, True])
def test_an_order_left_over_from_before_its_seq_was_committed_is_open_again_after_a_fall_back(
    learner: LearnerPort, actor: ActorPort, leased: bool
) -> None:
    """A broker that was set back shows orders that are trained long since; their marks go with the commit. If its
    checkpoint then proves unreadable, those orders are the only trace of their seqs, and actors must want them."""
    issue(learner, 2)
    held = actor.take(2, 0.0) if leased else []
    learner.commit(entries=[], lwm=2, ckpt="unreadable")
    successor = LearnerPort.fence(learner.broker, 2, 0, 2, learner.spec, ASYNC)
    successor.announce(make_weights(2, 0))
    successor.reconcile([])
    for order in held:
        assert actor.publish(answer(order), order) is PublishResult.DONE
    work(actor, 2)
    assert sorted(entry.seq for entry in successor.admit(9, 0.0)) == [0, 1]


def test_an_older_learner_does_not_mistake_a_rolled_back_broker_for_its_own(server: RedisServer) -> None:
    """The broker shows incarnation 1 again; only the claim on the checkpoint storage tells that 2 exists."""
    zombie = LearnerPort.fence(Broker.connect(server.url, "r"), 1, 0, 0, make_spec("r"), ASYNC)
    server.restart()
    with pytest.raises(BrokerChangedError):
        zombie.commit(entries=[], lwm=0, ckpt="zombie")
    with pytest.raises(FencedError, match="learner 2 took over from 1"):
        zombie.refence(newest_claim=2, lwm=0, cursor=0)
    with pytest.raises(BrokerChangedError):
        zombie.commit(entries=[], lwm=0, ckpt="zombie")


def test_a_run_that_was_deleted_is_a_loss_not_a_bug(learner: LearnerPort) -> None:
    keys = learner.broker.keys
    learner.broker.run(lambda client: client.delete(*client.keys(f"{{{keys.run}}}:*")))
    for call in (lambda: learner.admit(1, 0.0), lambda: issue(learner, 1), learner.pending, learner.control):
        with pytest.raises(BrokerChangedError):
            call()


def test_an_order_that_an_actor_took_out_of_anothers_leases_is_issued_again(
    learner: LearnerPort, actor: ActorPort
) -> None:
    """It is in the stream and nobody will ever be given it; one that is leased, or waits, stays as it is."""
    issue(learner, 4)
    orders = actor.take(3, 0.0)
    actor.broker.run(lambda client: client.xack(actor.broker.keys.work, ACTORS, orders[1].entry_id))
    assert learner.reconcile([]) == 1 and learner.reconcile([]) == 0
    assert [order.seq for order in actor.take(9, 0.0)] == [1, 3]


def test_lost_groups_are_found_among_a_million_that_are_known(broker: Broker) -> None:
    learner = LearnerPort.fence(broker, 1, 0, 1_000_000, make_spec(broker.keys.run), ASYNC)
    assert learner.reconcile(set(range(1_000_000)) - {7, 999_999}) == 2
    assert [order.seq for order in make_actor_port(broker, "a1").take(9, 0.0)] == [7, 999_999]


def test_keys_that_an_actor_made_unusable_are_deleted_at_the_next_beat(learner: LearnerPort, actor: ActorPort) -> None:
    keys, last = learner.broker.keys, f"{2**64 - 1}-{2**64 - 1}"
    issue(learner, 4)
    actor.broker.run(lambda client: client.xadd(keys.turns, {"x": "y"}))
    actor.broker.run(lambda client: client.xadd(keys.traj, {"x": "y"}, id=last))
    with pytest.raises(BrokerChangedError, match=f"an actor made unusable.*{keys.turns}, {keys.traj}"):
        learner.reap()
    learner.refence(newest_claim=1, lwm=0, cursor=4)
    assert learner.reap() == 0
    assert learner.reconcile([]) == 0 and work(actor, 4) == [0, 1, 2, 3]


def test_a_learner_fences_again_as_soon_as_a_key_is_unusable_and_others_wait_for_it(server: RedisServer) -> None:
    learner = LearnerPort.fence(Broker.connect(server.url, "r"), 1, 0, 0, make_spec("r"), ASYNC)
    issue(learner, 4)
    actor = make_actor_port(Broker.connect(server.url, "r", deadline_s=0.2), "a1")
    keys, orders = actor.broker.keys, actor.take(4, 0.0)
    for key in (keys.sizes, keys.turns):
        actor.broker.run(lambda client, key=key: client.xadd(key, {"x": "y"}))
    with pytest.raises(UnreachableError, match="another type than the run's processes give it"):
        actor.my_turn(version_of(1, 0))
    assert actor.publish(answer(orders[0]), orders[0]) == "duplicate", "the second call finds what the first has added"
    with pytest.raises(BrokerChangedError, match="another type"):
        learner.sized()
    learner.refence(newest_claim=1, lwm=0, cursor=4)
    assert actor.my_turn(version_of(1, 0))
    assert [actor.publish(answer(order), order) for order in orders[1:]] == ["done", "done", "done"]
    assert [entry.seq for entry in learner.admit(9, 0.0)] == [0, 1, 2, 3]
