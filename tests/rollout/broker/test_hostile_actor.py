"""What an actor may write can stall a run and waste its work; it ends no other process.

Each case is a command that the access rules allow to every actor, given by hand; then everybody does what is always
done, on both generations of servers.
"""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from servers import BOTH, served
from wire_records import ASYNC, answer, make_actor_port, make_group, make_spec, make_weights

from isentrope.redis_server import RedisServer
from isentrope.rollout.broker.connection import Broker
from isentrope.rollout.broker.keys import ACTORS, Keys
from isentrope.rollout.broker.learner_port import LearnerPort
from isentrope.rollout.broker.run_view import ActorState, RunView
from isentrope.rollout.broker.waiting import why_waiting
from isentrope.rollout.wire.types import EvalOrder, EvalResult

VERSION = make_weights().version
SPEC: dict[str, Any] = {"heartbeat_s": 1e-9, "max_tries": 3}


@pytest.fixture(scope="module", params=BOTH)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with served(request.param, tmp_path_factory.mktemp("redis")) as server:
        yield server


Attack = Callable[[Any, Keys], object]
MANY = {f"field-{number}": "x" for number in range(9000)}
ATTACKS: dict[str, Attack] = {
    **{
        f"{name} is {value}": lambda client, keys, name=name, value=value: client.hset(keys.n, name, value)
        for name in [
            "bytes",
            "published",
            "issued",
            "trained",
            "reissued",
            "reaped",
            "deaths",
            "duplicates",
            "eval_serial",
        ]
        for value in ("abc", "1.5", "9223372036854775807", "")
    },
    "a mark that is garbage": lambda client, keys: client.hset(keys.pub, "1", "garbage"),
    "a mark without an attempt": lambda client, keys: client.hset(keys.pub, "1", "open:"),
    "a mark of an endless attempt": lambda client, keys: client.hset(keys.pub, "1", "open:" + "9" * 40),
    "no mark": lambda client, keys: client.hdel(keys.pub, "1"),
    "a size that is garbage": lambda client, keys: [
        client.hset(keys.sizes, name, "abc") for name in client.hkeys(keys.sizes)
    ],
    "a size that is huge": lambda client, keys: [
        client.hset(keys.sizes, name, "9" * 30) for name in client.hkeys(keys.sizes)
    ],
    "a size of what is no entry": lambda client, keys: client.hset(keys.sizes, b"\xff x", "1"),
    "an actor whose name is no text": lambda client, keys: client.hset(keys.actors, b"\xff\xfe", b"\xff"),
    "an actor of huge numbers": lambda client, keys: client.hset(
        keys.actors, "big", '{"id": "big", "at_ms": 1' + "0" * 400 + ', "version": 1' + "0" * 40 + "}"
    ),
    "a lease of a name that is no text": lambda client, keys: client.xreadgroup(
        ACTORS, b"\xff\xfe", {keys.work: ">"}, 1
    ),
    "an order without fields": lambda client, keys: client.xadd(keys.work_hi, {"x": "y"}),
    "an order that is no text": lambda client, keys: client.xadd(keys.work, {b"\xff": b"\xfe"}),
    "an order of a huge seq": lambda client, keys: client.xadd(keys.work_hi, order(seq="9" * 30)),
    "an order of a negative seq": lambda client, keys: client.xadd(keys.work_hi, order(seq="-1")),
    "an order of many fields": lambda client, keys: client.xadd(keys.work_hi, MANY),
    "a leased order of many fields": lambda client, keys: leased(client, keys.work_hi, MANY),
    "a leased order of garbage": lambda client, keys: leased(client, keys.work_hi, order(tries="abc")),
    "a leased order without an attempt": lambda client, keys: leased(client, keys.work_hi, {"seq": "1"}),
    "an evaluation without fields": lambda client, keys: client.xadd(keys.eval, {"x": "y"}),
    "an evaluation of garbage": lambda client, keys: client.xadd(keys.eval, {"version": b"\xff"}),
    "an evaluation of a huge version": lambda client, keys: client.xadd(keys.eval, {"version": "9" * 40}),
    "an evaluation of endless samples": lambda client, keys: client.xadd(
        keys.eval, {"name": "held-out", "index": "1", "version": str(VERSION), "samples": "9" * 12, "tries": "0"}
    ),
    "a result that is garbage": lambda client, keys: client.xadd(keys.evald, {b"\xff": b"\xfe"}),
    "a group that is garbage": lambda client, keys: client.xadd(keys.traj, {b"\xff": b"\xfe"}),
    "a retirement in a terminal's language": lambda client, keys: client.xadd(
        keys.traj,
        {"kind": "tombstone", "seq": "1", "attempt": "0", "reason": "\x1b[2J", "detail": "\x1b]0;x\x07", "actor": "\n"},
    ),
    "news of nothing": lambda client, keys: client.xadd(keys.news, {"x": "y"}),
    "news of garbage": lambda client, keys: client.xadd(keys.news, {"topic": b"\xff"}),
    "a request to leave in a garbage time": lambda client, keys: client.hset(keys.leave, "honest", "abc"),
    "a request to leave in an endless time": lambda client, keys: client.hset(keys.leave, "honest", "inf"),
    "a turn of garbage": lambda client, keys: client.hset(keys.turns, str(VERSION), b"\xff"),
    "a reaper of garbage": lambda client, keys: client.hset(keys.reaper, "record", b"\xff"),
}


def order(**changes: str) -> dict[str, str]:
    return {"seq": "1", "attempt": "0", "incarnation": "1", "min_version": "0", "tries": "0", **changes}


def leased(client: Any, stream: str, fields: dict[str, str]) -> None:
    client.xadd(stream, fields)
    client.xreadgroup(ACTORS, "ghost", {stream: ">"}, 10)


def everybody(broker: Broker, learner: LearnerPort) -> None:
    """Everything that all sides do again and again."""
    actor = make_actor_port(broker, "honest", **SPEC)
    actor.heartbeat(ActorState(id="honest", boot="b"))
    for _ in range(8):
        actor.reap()
        learner.reap()
    for taken in actor.take(8, 0.0):
        actor.publish(answer(taken, actor="honest"), taken)
    for wanted in actor.take_eval(8, 0.0, VERSION):
        actor.publish_eval(EvalResult(wanted.name, VERSION, make_group(wanted.index)), wanted)
    actor.asked_to_leave()
    actor.my_turn(VERSION)
    actor.eval_version(VERSION)
    actor.news.wait(0.0)
    actor.refresh([])
    learner.report({"trained": 1, "retired": 0})
    learner.issue(trained_batches=1, retired=0, limit=100)
    learner.issue_eval([EvalOrder("held-out", 0, VERSION, 2, "")])
    learner.discard(sorted(learner.sized()))
    entries = [*learner.pending(), *learner.admit(64, 0.0)]
    learner.drop(entries)
    learner.reconcile([])
    learner.admit_eval(8, 0.0)
    learner.commit(entries=[entry.id for entry in entries], lwm=0, ckpt="")
    view = RunView(broker)
    assert why_waiting(view, learner.spec)
    assert all(state.host.isprintable() for state in view.actors())
    assert view.counters() is not None and view.leaving() is not None and view.queues()
    actor.leave()


@pytest.mark.parametrize("attack", ATTACKS)
def test_what_an_actor_may_write_ends_nobody(server: RedisServer, run_name: str, attack: str) -> None:
    broker = Broker.connect(server.url, run_name)
    learner = LearnerPort.fence(broker, 1, 0, 0, make_spec(run_name, **SPEC), ASYNC)
    learner.announce(make_weights())
    learner.issue(trained_batches=0, retired=0, limit=8)
    learner.issue_eval([EvalOrder("held-out", index, VERSION, 2, "") for index in range(2)])
    first = make_actor_port(broker, "first", **SPEC)
    (taken,) = first.take(1, 0.0)
    first.publish(answer(taken), taken)
    broker.run(lambda client: ATTACKS[attack](client, broker.keys))
    for _ in range(2):
        everybody(broker, learner)
    successor = LearnerPort.fence(broker, 2, 0, 0, learner.spec, ASYNC)
    successor.announce(make_weights(2))
    everybody(broker, successor)
    broker.close()
