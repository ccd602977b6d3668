"""The feeder without faults of processes: what is trained, what is retired, in which order, in both modes."""

from collections.abc import Iterator

import numpy as np
import pytest
from feeding import P, Run, assert_exactly_once, finish, running, seqs, weights
from waits import DEADLINE_S, wait_until
from wire_records import make_response

from isentrope.errors import FencedError
from isentrope.rollout.broker.actor_port import PublishResult
from isentrope.rollout.wire.control import Mode, RunState
from isentrope.rollout.wire.types import version_of

V0, V1, V2, V3 = (version_of(1, batch) for batch in range(4))


@pytest.fixture
def run(redis_server: str, run_name: str) -> Iterator[Run]:
    with running(redis_server, run_name) as run:
        yield run


def test_a_run_trains_every_issued_group_once(run: Run) -> None:
    learner, actor = run.learner(), run.actor()
    finish(learner, actor, run.batches)
    assert_exactly_once(run, learner)
    assert learner.feeder.status().retired == {}
    assert learner.issues_no_more(actor)


def test_orders_are_issued_up_to_the_admission_bound_and_the_end_of_the_run(run: Run) -> None:
    learner, actor = run.learner(), run.actor()
    assert actor.work(2 * P, V0) == list(range(2 * P))
    assert learner.issues_no_more(actor)
    learner.train(learner.next())
    assert actor.work(P, V1) == list(range(2 * P, 3 * P))
    finish(learner, actor, run.batches)
    assert learner.port.view.cursor() == run.batches * P


def test_async_trains_the_oldest_groups_that_are_here(run: Run) -> None:
    learner, actor = run.learner(), run.actor()
    orders = actor.take(2 * P)
    for order in orders[:0:-1]:
        actor.publish(order, V0)
    learner.settle(2 * P - 1)
    assert seqs(learner.next()) == [1, 2, 3, 4]


def test_a_batch_is_not_handed_out_before_it_is_complete(run: Run) -> None:
    learner, actor = run.learner(), run.actor()
    orders = actor.take(P)
    for order in orders[1:]:
        actor.publish(order, V0)
    learner.settle(P - 1)
    assert learner.feeder.next_batch(0.2) is None
    assert f"{P - 1} of {P} groups" in learner.feeder.why_waiting()
    assert learner.feeder.status().idle_s >= 0.2
    actor.publish(orders[0], V0)
    assert seqs(learner.next()) == [0, 1, 2, 3]


def test_the_plan_is_stored_before_the_batch_is_handed_out_and_deleted_with_its_groups(run: Run) -> None:
    learner, actor = run.learner(), run.actor()
    actor.work(P, V0)
    batch = learner.next()
    assert learner.port.plans() == {1: batch.record.encode()}
    learner.train(batch)
    assert learner.port.view.queues()["uncommitted"] == P
    run.save(learner)
    assert learner.port.plans() == {}
    assert learner.port.view.queues()["uncommitted"] == 0
    assert learner.port.view.checkpoint() == "batch 1"


def test_a_checkpoint_deletes_only_what_it_covers(run: Run) -> None:
    learner, actor = run.learner(), run.actor()
    actor.work(2 * P, V0)
    learner.train(learner.next())
    facts = learner.feeder.commit_facts()
    learner.train(learner.next())
    learner.feeder.commit(facts, "batch 1")
    assert list(learner.port.plans()) == [2]
    assert learner.port.view.queues()["uncommitted"] == P
    assert facts.lwm == P and learner.ledger.lwm == 2 * P


def test_a_full_byte_budget_never_stops_a_run(redis_server: str, run_name: str) -> None:
    """No checkpoint comes, and the first group fills the budget."""
    with running(redis_server, run_name, spec={"max_bytes": 1}) as run:
        learner, actor = run.learner(), run.actor()
        finish(learner, actor, run.batches)
        assert_exactly_once(run, learner)


@pytest.mark.parametrize("dies", [False, True])
def test_retired_groups_give_their_bytes_back_without_a_batch(redis_server: str, run_name: str, dies: bool) -> None:
    with running(redis_server, run_name, max_replaced=5 * P, spec={"max_bytes": 1}) as run:
        learner, actor = run.learner(), run.actor()
        run.save(learner)
        for count in range(1, 6):
            actor.work(P, V0)  # all of one reward
            learner.retired(same_reward=count * P)
            assert learner.feeder.is_pressed()
            learner.feeder.shed()
            assert not learner.feeder.is_pressed() and learner.port.counters()["bytes"] == 0
        if dies:
            run.kill(learner)
            learner = run.learner()
        finish(learner, actor, run.batches)
        assert_exactly_once(run, learner)


def test_bytes_that_were_counted_wrongly_are_right_after_a_restart(run: Run) -> None:
    learner, actor = run.learner(), run.actor()
    actor.work(P, V0)
    learner.train(learner.next())
    right, keys = learner.port.counters()["bytes"], learner.port.broker.keys
    for wrong in ("100000000000000", "12"):
        learner.port.broker.run(lambda client, wrong=wrong: client.hset(keys.n, "bytes", wrong))
        learner.port.broker.run(lambda client: client.hset(keys.sizes, "1-1", 10**9))  # of an entry that is gone
        run.kill(learner)
        learner = run.learner()
        assert learner.port.counters()["bytes"] == right
    finish(learner, actor, run.batches)
    assert_exactly_once(run, learner)


def test_a_full_server_asks_for_a_checkpoint(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its limit may be less than the byte budget."""
    learner = run.learner()
    assert not learner.feeder.is_pressed()
    monkeypatch.setattr(learner.port.view, "memory", lambda: (80, 100))
    assert learner.feeder.is_pressed()


def test_a_group_that_is_too_old_is_retired_and_replaced(run: Run) -> None:
    learner, actor = run.learner(), run.actor()
    late, *orders = actor.take(2 * P)
    for order in orders:
        actor.publish(order, V0)
    learner.train(learner.next())
    actor.work(P, V1)
    learner.train(learner.next())
    actor.publish(late, V0)
    learner.retired(stale=1)
    finish(learner, actor, run.batches)
    assert learner.port.view.cursor() == run.batches * P + 1
    assert_exactly_once(run, learner)


def test_a_group_becomes_stale_while_it_waits(run: Run) -> None:
    learner, actor = run.learner(), run.actor()
    orders = actor.take(2 * P)
    for order in orders:
        actor.publish(order, V0)
    learner.settle(2 * P)
    for batch in (1, 2):
        learner.train(learner.next())
        actor.publish(actor.take(1)[0], V0)
        if batch == 1:
            learner.settle(P + 1)
            assert learner.feeder.status().retired == {}
    learner.retired(stale=2)


@pytest.mark.parametrize(("old", "kept"), [(2, True), (3, False)])
def test_a_group_is_kept_while_half_of_its_trainable_tokens_are_young(run: Run, old: int, kept: bool) -> None:
    learner, actor = run.learner(), run.actor()
    actor.work(2 * P, V0)
    learner.train(learner.next())
    learner.train(learner.next())
    mixed = make_response(
        V0,
        tokens=6,
        mask=np.array([True, True, True, True, False, False]),
        span_start=np.array([0, old, 4], np.int32),
        span_version=np.array([V0, V1, V0]),
    )
    actor.publish(actor.take(1)[0], V1, responses=(mixed, mixed))
    if kept:
        learner.settle(1)
    learner.retired(**({} if kept else {"stale": 1}))


def test_an_order_that_was_given_up_is_retired_with_its_reason_and_replaced(run: Run) -> None:
    learner, actor = run.learner(), run.actor()
    actor.port.fail(actor.take(1)[0], "too_long", "9000 tokens")
    learner.retired(too_long=1)
    finish(learner, actor, run.batches)
    assert_exactly_once(run, learner)


def test_a_tombstone_stays_in_the_broker_until_a_checkpoint_knows_of_it(run: Run) -> None:
    learner, actor = run.learner(), run.actor()
    actor.port.fail(actor.take(1)[0], "reward", "raised")
    learner.retired(reward=1)
    run.kill(learner)
    after = run.learner()
    assert after.feeder.status().retired == {"reward": 1}
    run.save(after)
    assert after.port.view.queues()["uncommitted"] == 0


@pytest.mark.parametrize("damage", ["payload", "tokens", "responses", "version"])
def test_an_invalid_group_is_retired_and_the_run_goes_on(run: Run, damage: str) -> None:
    learner, actor = run.learner(), run.actor()
    order = actor.take(1)[0]
    if damage == "payload":
        header = {"schema": 1, "kind": "group", "seq": order.seq, "attempt": 0, "actor": "a1", "bytes": 2, "crc": 1}
        actor.port.broker.run(lambda client: client.xadd(actor.port.broker.keys.traj, {**header, "payload": b"xx"}))
    elif damage == "tokens":
        actor.publish(order, V0, prompt=np.array([10_000], np.int32))
    elif damage == "responses":
        actor.publish(order, V0, responses=(make_response(V0),))
    else:
        actor.publish(order, V1)
    learner.retired(invalid=1)
    finish(learner, run.actor("a2"), run.batches)
    assert_exactly_once(run, learner)


def test_records_of_seqs_that_were_never_issued_are_deleted(run: Run) -> None:
    learner, actor = run.learner(), run.actor()
    header = {"schema": 1, "kind": "group", "seq": 1000, "attempt": 0, "actor": "a1", "bytes": 2, "crc": 1}
    actor.port.broker.run(lambda client: client.xadd(actor.port.broker.keys.traj, {**header, "payload": b"xx"}))
    wait_until(lambda: learner.port.view.queues()["uncommitted"] == 0, "the end of the record")
    assert learner.feeder.status().retired == {}


def test_a_duplicate_is_deleted_and_trained_once(run: Run) -> None:
    learner, actor = run.learner(), run.actor()
    orders = actor.take(P)
    for order in orders:
        actor.publish(order, V0)
    learner.settle(P)
    keys = actor.port.broker.keys
    for order in orders[:2]:  # as a broker that lost its marks would accept them again
        actor.port.broker.run(lambda client, seq=order.seq: client.hset(keys.pub, seq, "open:0"))
        assert actor.publish(order, V0) is PublishResult.DONE

    def no_duplicates() -> bool:
        queues = learner.port.view.queues()
        return (queues["uncommitted"], queues["unread"]) == (P, 0)

    wait_until(no_duplicates, "the end of the duplicates")
    learner.train(learner.next())
    assert learner.feeder.status().ready == 0


def test_a_batch_that_cannot_be_trained_is_given_up(run: Run) -> None:
    learner, actor = run.learner(), run.actor()
    actor.work(P, V0)
    learner.next()
    learner.feeder.give_up([1, 2], "nonfinite")
    assert learner.feeder.status().ready == P - 2
    assert learner.feeder.status().retired == {"nonfinite": 2}
    finish(learner, actor, run.batches)
    assert learner.lineage[0][:2] == [0, 3]
    assert_exactly_once(run, learner)


def test_the_reaper_runs_and_an_order_that_kills_actors_is_retired(redis_server: str, run_name: str) -> None:
    with running(redis_server, run_name, spec={"max_tries": 1, "heartbeat_s": 0.2}) as run:
        learner, actor = run.learner(), run.actor()
        actor.take(1)  # and never a heartbeat
        learner.retired(tries=1)


def test_a_group_that_is_nowhere_is_issued_again(run: Run) -> None:
    learner, actor = run.learner(reconcile_after_s=0.5), run.actor()
    order = actor.take(1)[0]
    actor.port.broker.run(lambda client: client.xdel(order.stream, order.entry_id))
    wait_until(lambda: learner.port.counters().get("reissued") == 1, "another order for the group")
    assert actor.take(1)[0].seq == order.seq


def test_a_group_that_is_lost_is_issued_again_while_others_come(run: Run) -> None:
    run.batches = 10_000
    learner, actor = run.learner(reconcile_after_s=0.3), run.actor()
    order = actor.take(1)[0]
    actor.port.broker.run(lambda client: client.xdel(order.stream, order.entry_id))

    def found() -> bool:
        finish(learner, actor, learner.ledger.batches + 1)
        return order.seq in [seq for batch in learner.lineage for seq in batch]

    wait_until(found, "the lost group in a batch")


def test_a_group_of_an_order_whose_issue_was_never_answered_is_kept(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reply was lost and the repetition refused, by a broker that was full then."""
    learner, actor = run.learner(), run.actor()
    actor.work(2 * P, V0)
    learner.settle(2 * P)
    monkeypatch.setattr(learner.port, "issue", lambda **_: 2 * P)
    learner.port._call("issue", 9, 0, 3 * P, P, 1 << 30, V0, 256, 0)
    assert actor.work(P, V0) == [8, 9, 10, 11]
    learner.settle(3 * P)


def test_counters_for_those_who_watch(run: Run) -> None:
    learner, actor = run.learner(), run.actor()
    actor.port.fail(actor.take(1)[0], "reward", "raised")
    finish(learner, actor, 2)
    wait_until(lambda: learner.port.counters().get("trained") == 2 * P, "the learner's own counters")
    assert learner.port.counters()["retired"] == 1


# --- on-policy


def test_on_policy_trains_only_the_present_version_and_by_seq(run: Run) -> None:
    learner, actor = run.learner(Mode.ON_POLICY), run.actor()
    for batch in range(run.batches):
        version = version_of(1, batch)
        orders = actor.take(P)
        assert [order.seq for order in orders] == list(range(batch * P, (batch + 1) * P))
        assert learner.issues_no_more(actor)
        for order in reversed(orders):
            actor.publish(order, version)
        ready = learner.next()
        assert ready.record.mode is Mode.ON_POLICY
        assert seqs(ready) == [order.seq for order in orders]
        tokens = [response.versions() for group in ready.groups for response in group.responses]
        assert {int(each) for versions in tokens for each in versions} == {version}
        learner.train(ready)
    assert_exactly_once(run, learner)


@pytest.mark.parametrize("versions", [(V0,), (V0, V1), (V1, V0)])
def test_on_policy_a_group_with_any_token_of_another_version_is_made_again(run: Run, versions: tuple[int, ...]) -> None:
    learner, actor = run.learner(Mode.ON_POLICY), run.actor()
    actor.work(P, V0)
    learner.train(learner.next())
    response = make_response(
        V1,
        mask=np.array([False, False, True]),
        span_start=np.arange(len(versions), dtype=np.int32),
        span_version=np.array(versions),
    )
    order = actor.take(1)[0]
    actor.publish(order, V1, responses=(response, response))
    assert {order.seq, *actor.work(P, V1)} == set(range(P, 2 * P))
    assert seqs(learner.next()) == list(range(P, 2 * P))
    assert learner.feeder.status().retired == {}


def test_switching_to_on_policy_drains_what_was_issued_before(run: Run) -> None:
    learner, actor = run.learner(), run.actor()
    orders = actor.take(2 * P)
    for order in orders[:P]:
        actor.publish(order, V0)
    learner.train(learner.next())  # 4 more are issued: 8 are out
    learner.feeder.set_control(run.control(Mode.ON_POLICY))
    for order in orders[P:]:
        actor.publish(order, V0)
    actor.work(P, V1)
    for _ in range(2):
        batch = learner.next()
        assert batch.record.mode is Mode.ASYNC
        learner.train(batch)
    actor.work(P, V3)
    batch = learner.next()
    assert (batch.record.mode, seqs(batch)) == (Mode.ON_POLICY, [12, 13, 14, 15])
    learner.train(batch)
    assert learner.feeder.status().retired == {}
    assert_exactly_once(run, learner)


def test_a_rest_from_before_the_switch_makes_one_more_async_batch_with_new_groups(run: Run) -> None:
    learner, actor = run.learner(), run.actor()
    *orders, last = actor.take(2 * P)
    learner.feeder.set_control(run.control(Mode.ON_POLICY))
    actor.port.fail(last, "reward", "raised")
    learner.retired(reward=1)
    for order in orders:
        actor.publish(order, V0)
    learner.train(learner.next())
    assert actor.work(1, V1) == [2 * P]
    batch = learner.next()
    assert (batch.record.mode, seqs(batch)) == (Mode.ASYNC, [4, 5, 6, 8])
    learner.train(batch)
    actor.work(P, V2)
    assert learner.next().record.mode is Mode.ON_POLICY


def test_switching_to_async_only_opens_admission(run: Run) -> None:
    learner, actor = run.learner(Mode.ON_POLICY), run.actor()
    orders = actor.take(P)
    assert learner.issues_no_more(actor)
    learner.feeder.set_control(run.control(Mode.ASYNC))
    orders += actor.take(P)
    for order in orders:
        actor.publish(order, V0)
    for _ in range(2):
        batch = learner.next()
        assert batch.record.mode is Mode.ASYNC
        learner.train(batch)
    assert learner.feeder.status().retired == {}


def test_a_run_that_stops_issues_no_more(run: Run) -> None:
    learner, actor = run.learner(), run.actor()
    actor.work(2 * P, V0)
    learner.feeder.set_control(run.control(Mode.ASYNC).model_copy(update={"state": RunState.STOP}))
    learner.train(learner.next())
    assert learner.issues_no_more(actor)


# --- ends


def test_a_newer_learner_ends_the_feeder_with_every_call(run: Run) -> None:
    old = run.learner()
    run.learner()
    with pytest.raises(FencedError):
        old.feeder.next_batch(DEADLINE_S)
    with pytest.raises(FencedError):
        old.feeder.announce(weights(1, 1))
    old.feeder.stop()


def test_stop_is_prompt_and_may_be_repeated(run: Run) -> None:
    learner = run.learner()
    learner.feeder.stop()
    learner.feeder.stop()
    assert not learner.feeder._thread.is_alive()
