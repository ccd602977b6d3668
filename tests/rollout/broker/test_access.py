"""The access rules of `rollout/README.md`: enough for everything each side does, and not a command more."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
import redis
from wire_records import ASYNC, answer, make_actor_port, make_group, make_spec, make_weights

from isentrope.errors import AccessError, IsentropeError
from isentrope.redis_server import RedisServer
from isentrope.rollout.broker import keys
from isentrope.rollout.broker.actor_port import ActorPort
from isentrope.rollout.broker.connection import Broker
from isentrope.rollout.broker.learner_port import LearnerPort
from isentrope.rollout.broker.news import EVERYTHING
from isentrope.rollout.broker.relay_list import RelayList
from isentrope.rollout.broker.run_view import ActorState, RunView
from isentrope.rollout.broker.waiting import why_waiting
from isentrope.rollout.wire.types import EvalOrder, EvalResult, WorkOrder

README = Path(keys.__file__).parents[1] / "README.md"
USERS = dict(re.findall(r"^user (\w+) (.*)$", README.read_text(encoding="utf-8"), re.MULTILINE))
VERSION = make_weights().version


class Guarded:
    """A server with the users of the README."""

    def __init__(self, server: RedisServer) -> None:
        self.admin = redis.Redis.from_url(server.url)
        self.socket = server.socket

    def give(self, user: str, run: str, *, but: str = "") -> None:
        rules = [rule.replace("RUN", run) for rule in USERS[user].split() if rule != but]
        self.admin.execute_command("ACL", "SETUSER", user, "reset", *rules)

    def connect(self, user: str, run: str) -> Broker:
        return Broker.connect(f"unix://{user}:PASSWORD@{quote(str(self.socket))}", run, deadline_s=0.5)


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    with RedisServer() as server:
        server.start(tmp_path_factory.mktemp("redis"))
        yield Guarded(server)


def life(guarded: Guarded, run: str) -> None:
    """Everything all sides do, once."""
    guarded.admin.script_flush()
    spec = make_spec(run, heartbeat_s=1e-9, max_tries=1)
    learner = LearnerPort.fence(guarded.connect("learner", run), 1, 0, 0, spec, ASYNC)
    view, operator = RunView(guarded.connect("viewer", run)), RunView(guarded.connect("operator", run))
    learner.announce(make_weights())
    learner.issue(trained_batches=0, retired=0, limit=5)
    learner.issue_eval([EvalOrder("held-out", index, VERSION, 2, "") for index in range(3)])
    actor, dead = (ActorPort(guarded.connect("actor", run), name, spec) for name in ("a1", "a2"))
    assert (actor.view.spec(1.0), actor.view.control_state(), actor.view.weights()) == (spec, ASYNC, make_weights())
    assert actor.heartbeat(ActorState(id="a1")) and dead.heartbeat(ActorState(id="a2"))
    published, failed, back, *_ = actor.take(3, 0.01)
    assert actor.publish(answer(published), published) == "done"
    assert actor.fail(failed, "reward", "") == "done"
    actor.hand_back([back])
    dead.take(1, 0.0)
    assert actor.eval_version(VERSION) == VERSION
    answered, *_ = actor.take_eval(1, 0.0, VERSION)
    assert actor.publish_eval(EvalResult("held-out", VERSION, make_group(answered.index)), answered) == "done"
    dead.take_eval(1, 0.0, VERSION)
    assert actor.refresh([]) == []
    assert sum(actor.reap() for _ in range(20)) == 2
    for reader in (view, operator):
        assert why_waiting(reader, spec)
        assert (reader.checkpoint(), reader.incarnation()) == ("", 1)
    operator.request("stop")
    assert learner.control().requested_stop
    for reader in (view, operator, learner.view):
        assert reader.desired() is None and reader.leaving() == {} and len(reader.actors()) == 2
    operator.want(3)
    operator.ask_to_leave(["a1"], 5.0)
    assert actor.news.wait(0.0) == EVERYTHING and actor.news.wait(0.01) and actor.asked_to_leave() == 5.0
    lists = [RelayList(port.broker) for port in (actor, dead)]
    assert [each.enter(f"http://m{number}:1", "0a") for number, each in enumerate(lists)] == [[], ["http://m0:1"]]
    lists[0].withdraw("http://m0:1")
    assert actor.my_turn(VERSION) and not dead.my_turn(VERSION)
    entries = learner.admit(9, 0.01) + learner.pending()
    learner.plan(1, b"plan")
    assert list(learner.plans()) == [1] and why_waiting(learner.view, spec)
    assert learner.fetch([entry.id for entry in entries]) == entries
    learner.commit(entries=[entry.id for entry in entries], lwm=1, ckpt="c", plans=[1])
    learner.report({"trained": 1})
    assert learner.reconcile([1]) > 0
    assert len(learner.admit_eval(3, 0.01)) == 2
    learner.reap()
    actor.leave()
    for port in (learner, view, operator, actor, dead):
        port.broker.close()


def test_the_rules_are_enough(guarded: Guarded, run_name: str) -> None:
    for user in USERS:
        guarded.give(user, run_name)
    life(guarded, run_name)


@pytest.mark.parametrize("user", USERS)
def test_no_rule_is_more_than_needed(guarded: Guarded, run_name: str, user: str) -> None:
    needless = []
    for number, rule in enumerate(rule for rule in USERS[user].split() if rule[0] in "+~"):
        run = f"{run_name}-{number}"
        for name in USERS:
            guarded.give(name, run, but=rule if name == user else "")
        try:
            life(guarded, run)
        except (IsentropeError, AssertionError):
            continue
        needless.append(rule)
    assert needless == []


FORBIDDEN: dict[str, Callable[["redis.Redis", str], object]] = {
    "flushall": lambda client, run: client.flushall(),
    "config": lambda client, run: client.config_set("maxmemory", 1),
    "keys": lambda client, run: client.keys("*"),
    "eval": lambda client, run: client.eval("return 1", 0),
    "script load": lambda client, run: client.script_load("return 1"),
    "acl": lambda client, run: client.acl_list(),
    "monitor": lambda client, run: client.execute_command("MONITOR"),
    "shutdown": lambda client, run: client.execute_command("SHUTDOWN"),
    "incarnation": lambda client, run: client.set(f"{{{run}}}:incarnation", 9),
    "checkpoint": lambda client, run: client.get(f"{{{run}}}:ckpt"),
    "plans": lambda client, run: client.hgetall(f"{{{run}}}:plans"),
    "control": lambda client, run: client.hset(f"{{{run}}}:ctl", "mode", "x"),
    "cursor": lambda client, run: client.hincrby(f"{{{run}}}:cursor", "x", 1),
    "weights": lambda client, run: client.xadd(f"{{{run}}}:weights", {"x": "y"}),
    "another run": lambda client, run: client.get("{other}:ctl"),
    "delete": lambda client, run: client.delete(f"{{{run}}}:traj"),
    "trim": lambda client, run: client.xtrim(f"{{{run}}}:traj", maxlen=0),
    "group": lambda client, run: client.xgroup_destroy(f"{{{run}}}:work", "actors"),
}


@pytest.mark.parametrize("name", FORBIDDEN)
def test_an_actor_may_not(guarded: Guarded, run_name: str, name: str) -> None:
    for user in ("learner", "actor"):
        guarded.give(user, run_name)
    learner = LearnerPort.fence(guarded.connect("learner", run_name), 1, 0, 0, make_spec(run_name), ASYNC)
    learner.announce(make_weights())
    broker = guarded.connect("actor", run_name)
    with pytest.raises(IsentropeError) as caught:
        broker.run(lambda client: FORBIDDEN[name](client, run_name))
    assert isinstance(caught.value, AccessError) or "WRONGTYPE" in caught.value.what


def test_an_actor_may_not_act_as_the_learner_through_its_scripts(guarded: Guarded, run_name: str) -> None:
    """A script grants nothing: what it does is checked against the caller's rules."""
    for user in ("learner", "actor"):
        guarded.give(user, run_name)
    learner = LearnerPort.fence(guarded.connect("learner", run_name), 1, 0, 0, make_spec(run_name), ASYNC)
    learner.issue(trained_batches=0, retired=0, limit=4)
    impostor = LearnerPort(guarded.connect("actor", run_name), 1, learner.spec)
    for call in (
        lambda: impostor.issue(trained_batches=9, retired=0, limit=9),
        lambda: impostor.plan(1, b""),
        lambda: impostor.commit(entries=[], lwm=1, ckpt="x"),
        lambda: impostor.reconcile([]),
    ):
        with pytest.raises(AccessError):
            call()
    assert (learner.view.cursor(), learner.plans(), learner.view.checkpoint()) == (4, {}, "")


def test_a_viewer_sees_no_prompts_and_an_operator_writes_no_strings(guarded: Guarded, run_name: str) -> None:
    for user in USERS:
        guarded.give(user, run_name)
    learner = LearnerPort.fence(guarded.connect("learner", run_name), 1, 0, 0, make_spec(run_name), ASYNC)
    traj, control = learner.broker.keys.traj, learner.broker.keys.ctl
    with pytest.raises(AccessError):
        guarded.connect("viewer", run_name).run(lambda client: client.xrange(traj))
    with pytest.raises(AccessError):
        guarded.connect("viewer", run_name).run(lambda client: client.hset("x", "y", "z"))
    with pytest.raises(IsentropeError, match="WRONGTYPE"):
        guarded.connect("operator", run_name).run(lambda client: client.hset(control, "mode", "x"))


def test_an_actor_waits_while_scripts_are_missing_and_says_what_for(guarded: Guarded, run_name: str) -> None:
    guarded.give("actor", run_name)
    actor = make_actor_port(guarded.connect("actor", run_name), "a1")
    guarded.admin.script_flush()
    order = WorkOrder(0, 0, 1, 1, 0, actor.broker.keys.work, "1-1")
    with pytest.raises(IsentropeError, match="no learner has loaded them again"):
        actor.hand_back([order])
