"""Every script: called twice it acts once, a newer incarnation stops it, a full broker cannot tear it in two.

The scene they play in: learner 1 has issued eight orders. Actor a1 has taken four; one it has published and the learner
has read, one it has given up, two it still holds. Of two evaluation orders it holds one.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import redis
from wire_records import ASYNC, answer, make_actor_port, make_group, make_spec, make_weights

from isentrope.errors import BrokerChangedError, FencedError, InternalError, RunFolderError
from isentrope.redis_server import RedisServer
from isentrope.rollout.broker.actor_port import ActorPort, PublishResult
from isentrope.rollout.broker.answers import BrokerFullError, FencedReply
from isentrope.rollout.broker.connection import SCRIPT_KEYS, Argument, Broker
from isentrope.rollout.broker.learner_port import Entry, LearnerPort
from isentrope.rollout.broker.run_view import ActorState
from isentrope.rollout.wire.codec import encode_group
from isentrope.rollout.wire.types import EvalOrder, WorkOrder

VERSION = make_weights().version
TIME = re.compile(rb',"at_ms":[0-9]+')


@dataclass(frozen=True)
class Scene:
    broker: Broker
    learner: LearnerPort
    actor: ActorPort
    held: list[WorkOrder]
    evaluation: EvalOrder
    entry: Entry

    def state(self) -> dict[str, object]:
        """All there is of the run, but for the count of duplicates, the times of reads and heartbeats, and the news."""
        client: Any = self.broker._client
        found: dict[str, object] = {}
        for raw in client.keys(f"{{{self.broker.keys.run}}}:*"):
            key = raw.decode()
            if key.startswith(self.broker.keys.news):
                continue
            match client.type(key):
                case b"string":
                    found[key] = client.get(key)
                case b"hash":
                    fields = client.hgetall(key).items()
                    found[key] = {name: TIME.sub(b"", value) for name, value in fields if name != b"duplicates"}
                case b"stream":
                    group = client.xinfo_groups(key)[0]["name"]
                    leases = client.xpending_range(key, group, "-", "+", 100)
                    found[key] = (client.xrange(key), [(lease["message_id"], lease["consumer"]) for lease in leases])
        return found

    def call(self, name: str, incarnation: int = 1) -> Any:
        args, keys = CALLS[name](self)
        return self.broker.call(name, *((incarnation,) if name in FENCED else ()), *args, keys=keys)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A server of this module's own: tests change its memory limit."""
    with RedisServer() as server:
        server.start(tmp_path_factory.mktemp("redis"))
        yield server


@pytest.fixture
def scene(server: RedisServer, run_name: str) -> Iterator[Scene]:
    broker = Broker.connect(server.url, run_name)
    learner = LearnerPort.fence(broker, 1, 0, 0, make_spec(run_name), ASYNC)
    learner.announce(make_weights())
    learner.issue(trained_batches=0, retired=0, limit=8)
    learner.issue_eval([EvalOrder("held-out", index, VERSION, 2, "") for index in range(2)])
    actor = make_actor_port(broker, "a1")
    actor.heartbeat(ActorState(id="a1"))
    orders = actor.take(4, 0.0)
    actor.publish(answer(orders[0]), orders[0])
    (entry,) = learner.admit(1, 0.0)
    actor.fail(orders[1], "too_long", "")
    yield Scene(broker, learner, actor, orders[2:], actor.take_eval(1, 0.0, VERSION)[0], entry)
    broker.run(lambda client: client.config_set("maxmemory", 0))
    broker.close()


Call = tuple[tuple[Argument, ...], list[str]]


def fields(header: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(part for pair in header.items() for part in pair)


def publish(scene: Scene) -> Call:
    order = scene.held[0]
    header, payload = encode_group(answer(order))
    lease = (order.entry_id, order.seq, order.attempt, len(payload), "published")
    return (*lease, *fields({**header, "payload": payload})), [order.stream]


def reap(scene: Scene) -> Call:
    record = scene.broker.run(lambda client: client.hget(scene.broker.keys.actors, "a1"))
    return ("a1", record, 5), []


CALLS: dict[str, Callable[[Scene], Call]] = {
    "mend": lambda s: ((), []),
    "fence": lambda s: ((0, 0, s.learner.spec.model_dump_json(), ASYNC.model_dump_json(), "0123456789abcdef", ""), []),
    "issue": lambda s: ((1, 0, 100, 4, 1 << 30, VERSION, 256), []),
    "check": lambda s: ((1, s.held[0].entry_id, s.held[0].seq, 0, 1, s.held[1].entry_id, s.held[1].seq, 1), []),
    "publish": publish,
    "publish_eval": lambda s: ((s.evaluation.entry_id, *fields(encode_group(make_group())[0])), []),
    "handback": lambda s: ((1, s.held[0].entry_id, 3, s.evaluation.entry_id), []),
    "reap": reap,
    "drop": lambda s: ((s.entry.id,), []),
    "set": lambda s: (("control", "1", b"record"), [s.broker.keys.plans]),
    "commit": lambda s: ((2, "step 1", 1), []),
    "reconcile": lambda s: ((VERSION, 1 << 53, 0, 0, 1), []),
    "heartbeat": lambda s: (("a1", ActorState(id="a1", beat=7).model_dump_json(), "", ""), []),
    "issue_eval": lambda s: (((1 << 20) + 9, "held-out", 5, VERSION, 2), []),
    "turn": lambda s: ((VERSION, "a1"), []),
    "reaper": lambda s: (("a1 1", "*"), []),
    "relay": lambda s: (("http://m2:1", "0b", 2, 9, 60), []),
    "ask": lambda s: (("leave", "a1", "30.0"), [s.broker.keys.leave]),
}

FENCED = {"fence", "mend", "issue", "drop", "set", "commit", "reconcile", "issue_eval"}
"""Scripts whose first argument is the incarnation."""

NEED_ROOM = {"issue", "publish", "publish_eval", "issue_eval"}
"""Scripts that a full broker refuses; all others must work, or nothing would ever be freed."""


def test_the_table_has_all_scripts() -> None:
    assert CALLS.keys() == SCRIPT_KEYS.keys()


def lose_some(scene: Scene) -> None:
    """Something for RECONCILE to find: an order that is neither waiting nor published."""
    client: Any = scene.broker._client
    client.xdel(scene.broker.keys.work, client.xrange(scene.broker.keys.work)[-1][0])


@pytest.mark.parametrize("name", SCRIPT_KEYS)
def test_called_twice_it_acts_once(scene: Scene, name: str) -> None:
    lose_some(scene)
    arguments = CALLS[name](scene)
    before = scene.state()
    args = (*((1,) if name in FENCED else ()), *arguments[0])
    scene.broker.call(name, *args, keys=arguments[1])
    once = scene.state()
    scene.broker.call(name, *args, keys=arguments[1])
    assert scene.state() == once
    assert (once != before) or name in ("fence", "mend")


@pytest.mark.parametrize("name", sorted(FENCED))
def test_an_older_incarnation_is_refused_and_changes_nothing(
    scene: Scene, server: RedisServer, run_name: str, name: str
) -> None:
    successor = Broker.connect(server.url, run_name)
    LearnerPort.fence(successor, 2, 0, 0, make_spec(run_name), ASYNC)
    before = scene.state()
    with pytest.raises(FencedReply) as caught:
        scene.call(name)
    assert caught.value.held == 2
    assert scene.state() == before
    successor.close()


@pytest.mark.parametrize("name", sorted(FENCED - {"fence"}))
def test_a_broker_that_has_lost_the_run_is_noticed(scene: Scene, name: str) -> None:
    """Held incarnation 0: not a successor, but a loss."""
    scene.broker.run(lambda client: client.delete(*client.keys(f"{{{scene.broker.keys.run}}}:*")))
    args, keys = CALLS[name](scene)
    with pytest.raises(BrokerChangedError, match="holds incarnation 0, older than 1"):
        scene.learner._fenced.call(name, *args, keys=keys)


@pytest.mark.parametrize("name", sorted(SCRIPT_KEYS.keys() - FENCED))
def test_an_actor_outlives_a_broker_that_has_lost_the_run(scene: Scene, name: str) -> None:
    """Its learner will fence again; until then there are no streams, no groups and no cursor."""
    args, keys = CALLS[name](scene)
    scene.broker.run(lambda client: client.delete(*client.keys(f"{{{scene.broker.keys.run}}}:*")))
    args = ("a1", "", 5) if name == "reap" else args
    assert scene.broker.call(name, *args, keys=keys) in (0, [], [1, b""], 1, [0, 0], b"later", b"duplicate")


@pytest.mark.parametrize("name", SCRIPT_KEYS)
def test_a_full_broker_refuses_all_of_it_or_nothing(scene: Scene, name: str) -> None:
    lose_some(scene)
    args, keys = CALLS[name](scene)
    args = (*((1,) if name in FENCED else ()), *args)
    scene.broker.run(lambda client: client.config_set("maxmemory", 1))
    before = scene.state()
    if name in NEED_ROOM:
        with pytest.raises(BrokerFullError):
            scene.broker.call(name, *args, keys=keys)
        assert scene.state() == before
    else:
        scene.broker.call(name, *args, keys=keys)
        full = scene.state()
        scene.broker.run(lambda client: client.config_set("maxmemory", 0))
        scene.broker.call(name, *args, keys=keys)
        assert scene.state() == full, "it was cut off in the middle"


# --- single scripts


def test_fence_refuses_a_run_of_another_configuration(scene: Scene) -> None:
    before = scene.state()
    spec = scene.learner.spec.model_copy(update={"config_digest": "another"})
    with pytest.raises(RunFolderError, match="another configuration"):
        LearnerPort.fence(scene.broker, 2, 0, 0, spec, ASYNC)
    assert scene.state() == before


def test_fence_sets_the_low_watermark_of_the_loaded_checkpoint_also_downwards(scene: Scene) -> None:
    """Else a learner that fell back to an older checkpoint could never have its re-issued groups published."""
    scene.learner.drop([scene.entry])
    scene.learner.commit(entries=[], lwm=2, ckpt="c", plans=[])
    learner = LearnerPort.fence(scene.broker, 2, 0, 8, scene.learner.spec, ASYNC)
    learner.reconcile([])
    again = {order.seq: order for order in scene.actor.take(8, 0.0)}
    assert 0 in again
    assert scene.actor.publish(answer(again[0]), again[0]) is PublishResult.DONE


def test_publish_takes_only_what_is_open(scene: Scene) -> None:
    """Unknown seqs, other attempts, seqs below the watermark: the lease is released, nothing is added."""
    order = scene.held[0]
    for forged in ((order.entry_id, 100, 0), (order.entry_id, order.seq, 1), (order.entry_id, 0, 0)):
        size = scene.learner.view.queues()["uncommitted"]
        assert scene.broker.call("publish", *forged, 1, "published", "kind", "x", keys=[order.stream]) == b"duplicate"
        assert scene.learner.view.queues()["uncommitted"] == size
    assert scene.actor.refresh([order]) == [order]


def test_bytes_are_the_sum_of_what_is_in_the_stream(scene: Scene) -> None:
    entries = scene.broker.run(lambda client: client.xrange(scene.broker.keys.traj))
    payload = sum(len(found.get(b"payload", b"")) for _, found in entries)
    assert scene.learner.counters()["bytes"] == payload > 0
    scene.learner.drop([scene.entry])
    assert scene.learner.counters()["bytes"] == 0


def test_the_byte_budget_closes_admission(scene: Scene) -> None:
    small = scene.learner.spec.model_copy(update={"max_bytes": 1})
    learner = LearnerPort.fence(scene.broker, 2, 0, 0, small, ASYNC)
    assert learner.issue(trained_batches=5, retired=0, limit=100) == 8
    assert learner.issue(trained_batches=5, retired=0, limit=100, needed=8) == 8
    learner.drop([scene.entry])
    assert learner.issue(trained_batches=5, retired=0, limit=9) == 9


def test_the_byte_budget_does_not_hold_back_the_next_batch(scene: Scene) -> None:
    small = scene.learner.spec.model_copy(update={"max_bytes": 1})
    learner = LearnerPort.fence(scene.broker, 2, 0, 0, small, ASYNC)
    assert learner.counters()["bytes"] > small.max_bytes
    assert learner.issue(trained_batches=5, retired=0, limit=100, needed=10) == 10
    assert learner.issue(trained_batches=0, retired=3, limit=100, needed=100) == (1 + 1) * 4 + 3, "admission still does"


def test_a_new_incarnation_forgets_open_evaluations(scene: Scene) -> None:
    LearnerPort.fence(scene.broker, 2, 0, 0, scene.learner.spec, ASYNC)
    assert scene.learner.view.queues()["eval"] == 0


def test_a_fenced_learner_is_told_who_took_over(scene: Scene) -> None:
    LearnerPort.fence(scene.broker, 3, 0, 0, scene.learner.spec, ASYNC)
    with pytest.raises(FencedError, match="learner 3 took over from 1"):
        scene.learner.plan(1, b"late")
    assert scene.learner.plans() == {}


def test_errors_in_scripts_are_ours(scene: Scene) -> None:
    scene.broker.run(lambda client: client.set(scene.broker.keys.ctl, "no object"))
    with pytest.raises(InternalError, match="invalid token"):
        scene.learner.issue(trained_batches=3, retired=0, limit=100)


def test_every_error_of_the_server_comes_without_a_traceback_of_the_client(scene: Scene) -> None:
    with pytest.raises(InternalError) as caught:
        scene.broker.run(lambda client: client.execute_command("NO-SUCH-COMMAND"))
    assert not isinstance(caught.value.__cause__, redis.RedisError)
