"""Actors in quarantine, with a real broker and feeder; the rule alone is in `test_buffer.py`."""

from feeding import assert_exactly_once, finish, running
from waits import wait_until
from wire_records import answer

from isentrope.rollout.broker.actor_port import PublishResult
from isentrope.rollout.broker.run_view import ActorStage, ActorState
from isentrope.rollout.wire.codec import encode_group
from isentrope.rollout.wire.types import version_of

V0 = version_of(1, 0)


def test_an_actor_whose_records_are_refused_is_in_quarantine_and_its_orders_go_to_others(
    redis_server: str, run_name: str
) -> None:
    with running(redis_server, run_name, batches=4, max_lag=2, spec={"heartbeat_s": 0.2}) as run:
        learner, liar = run.learner(), run.actor("liar")
        orders = liar.take(6)
        liar.port.heartbeat(ActorState(id="liar", state=ActorStage.SERVING))
        for order in orders[:3]:
            header, payload = encode_group(answer(order, version=V0, actor="liar"))
            assert (
                liar.port._publish(order, "published", {**header, "crc": 1, "payload": payload}, 1)
                is PublishResult.DONE
            )
        learner.retired(invalid=3)
        assert liar.publish(orders[3], V0) is PublishResult.DONE, "nobody has told it"

        def told() -> bool:
            state = learner.port.view.learner()
            return state is not None and "3 of its records were refused" in state.quarantined.get("liar", "")

        wait_until(told, "the reason")
        wait_until(lambda: learner.port.counters().get("reaped", 0) == 2, "the end of its leases")
        wait_until(
            lambda: learner.feeder.status().ready == 0 and learner.port.view.queues()["waiting"] > 0, "its order"
        )
        finish(learner, run.actor("liar.2"), run.batches)
        assert_exactly_once(run, learner)
        assert learner.feeder.status().retired == {"invalid": 3}
        trained = [seq for batch in learner.lineage for seq in batch]
        assert {order.seq for order in orders[3:]} <= set(trained)


def test_a_process_whose_second_id_is_in_quarantine_costs_no_group_more(redis_server: str, run_name: str) -> None:
    with running(redis_server, run_name, batches=4, max_lag=3) as run:
        learner, refused = run.learner(), 0
        for name in ("bad", "bad.2", "bad.3", "bad.17"):
            bad = run.actor(name)
            for order in bad.take(3):
                header, payload = encode_group(answer(order, version=V0, actor=name))
                bad.port._publish(order, "published", {**header, "crc": 1, "payload": payload}, 1)
                refused += name in ("bad", "bad.2")
            wait_until(lambda: learner.port.view.queues()["unread"] == 0, "what it has published")
        learner.retired(invalid=refused)
        assert learner.feeder.status().ready == 0
        finish(learner, run.actor("badger.2"), run.batches)
        assert_exactly_once(run, learner)
        assert learner.feeder.status().retired == {"invalid": 6}
