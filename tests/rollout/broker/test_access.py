"""The access rules: enough for everything each role does, not a command more, and closed to a hostile one."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from servers import BOTH, binary_of
from wire_records import ASYNC, answer, make_actor_port, make_group, make_spec, make_weights

from isentrope.errors import AccessError, IsentropeError, NoScriptsError
from isentrope.redis_server import RedisServer
from isentrope.rollout.broker.access import RIGHTS, Role
from isentrope.rollout.broker.actor_port import ActorPort
from isentrope.rollout.broker.connection import Broker
from isentrope.rollout.broker.learner_port import LearnerPort
from isentrope.rollout.broker.news import EVERYTHING
from isentrope.rollout.broker.reaper import Reaper
from isentrope.rollout.broker.relay_list import RelayList
from isentrope.rollout.broker.run_view import ActorState, RunView
from isentrope.rollout.broker.waiting import why_waiting
from isentrope.rollout.wire.types import EvalOrder, EvalResult, WorkOrder

USERS = {role.value: f"on >PASSWORD {' '.join(rights.rules('RUN'))}" for role, rights in RIGHTS.items()}
VERSION = make_weights().version


class Guarded:
    """A server to which users are added."""

    def __init__(self, server: RedisServer) -> None:
        self.admin = redis.Redis.from_url(server.url)
        self.socket = server.socket

    def give(self, user: str, run: str, *, but: str = "") -> None:
        rules = [rule.replace("RUN", run) for rule in USERS[user].split() if rule != but]
        self.admin.execute_command("ACL", "SETUSER", user, "reset", *rules)

    def connect(self, user: str, run: str) -> Broker:
        return Broker.connect(f"unix://{user}:PASSWORD@{quote(str(self.socket))}", run, deadline_s=0.5)


@pytest.fixture(scope="module", params=BOTH)
def binary(request: pytest.FixtureRequest) -> Path | None:
    """A server of each version whose rules differ."""
    return binary_of(request.param)


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory, binary: Path | None) -> Iterator[Guarded]:
    with RedisServer(binary=binary) as server:
        server.start(tmp_path_factory.mktemp("redis"))
        yield Guarded(server)


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory, binary: Path | None) -> Iterator[RedisServer]:
    """A private server as a run has it, whose learner has opened the run."""
    with RedisServer(run=RUN, binary=binary) as server:
        server.start(tmp_path_factory.mktemp("own"))
        broker = Broker.connect(server.url_of(Role.LEARNER), RUN, deadline_s=5.0)
        with contextlib.closing(broker):
            LearnerPort.fence(broker, 1, 0, 0, make_spec(RUN), ASYNC).announce(make_weights())
            yield server


def life(guarded: Guarded, run: str) -> None:
    """Everything all sides do, once."""
    guarded.admin.script_flush()
    spec = make_spec(run, heartbeat_s=1e-9, max_tries=1)
    learner = LearnerPort.fence(guarded.connect("learner", run), 1, 0, 0, spec, ASYNC)
    view, operator, command = (RunView(guarded.connect(user, run)) for user in ("viewer", "operator", "command"))
    command.broker.run(lambda client: client.delete(command.broker.keys.ctl, command.broker.keys.request))
    learner.set_control(ASYNC)
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
    ended = ActorPort(guarded.connect("actor", run), "a3", spec)
    assert ended.heartbeat(ActorState(id="a3", boot="b")) and ended.take(1, 0.0)
    assert Reaper(command.broker, spec).revoke_process("b") == 1
    assert actor.eval_version(VERSION) == VERSION
    answered, *_ = actor.take_eval(1, 0.0, VERSION)
    assert actor.publish_eval(EvalResult("held-out", VERSION, make_group(answered.index)), answered) == "done"
    dead.take_eval(1, 0.0, VERSION)
    assert actor.refresh([]) == []
    assert sum(actor.reap() for _ in range(20)) == 2
    for reader in (view, operator, command):
        assert why_waiting(reader, spec)
        assert (reader.checkpoint(), reader.incarnation()) == ("", 1)
    for asking in (operator, command):
        asking.request("stop")
        assert learner.control().requested_stop
    for reader in (view, operator, command, learner.view):
        assert reader.desired() is None and reader.leaving() == {} and len(reader.actors()) == 3
    for asking in (operator, command):
        asking.want(3)
        asking.ask_to_leave(["a1"], 5.0)
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
    for port in (learner, view, operator, command, actor, dead, ended):
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


RUN = "own"


def _k(name: str) -> str:
    return f"{{{RUN}}}:{name}"


NOBODY = [
    *("FLUSHALL", "FLUSHDB", "CONFIG GET *", "CONFIG SET maxmemory 1", "DEBUG SLEEP 0", "SHUTDOWN NOSAVE", "KEYS *"),
    *(
        "SCAN 0",
        "MONITOR",
        "EVAL x 0",
        "ACL LIST",
        "ACL WHOAMI",
        "REPLICAOF a 1",
        "SLAVEOF a 1",
        "SAVE",
        "BGREWRITEAOF",
    ),
    *("CLIENT LIST", "CLIENT KILL 1.1.1.1:1", "MODULE LIST", "SWAPDB 0 1", "SELECT 1", "DBSIZE", "RANDOMKEY", "SYNC"),
    *("SUBSCRIBE x", "PUBLISH x y", "GET {other}:ctl", "HGETALL {other}:n", "HSET {other}:n a b"),
    *(
        f"MIGRATE h 1 {_k('traj')} 0 1",
        f"RESTORE {_k('traj')} 0 x",
        f"DUMP {_k('traj')}",
        f"COPY {_k('ctl')} {_k('n')}",
    ),
    *(f"RENAME {_k('ctl')} {_k('n')}", f"XGROUP DESTROY {_k('work')} actors", f"XTRIM {_k('traj')} MAXLEN 0"),
    *(f"INCR {_k('incarnation')}", f"EXPIRE {_k('ctl')} 1", f"APPEND {_k('ckpt')} x", f"GETSET {_k('ckpt')} x"),
]
"""Commands that no role may give."""

ONLY_LEARNER = [
    *(f"SET {_k('incarnation')} 9", f"SET {_k('ckpt')} x", f"SET {_k('cursor')} 9", f"SET {_k('ctl')} x"),
    *("SCRIPT LOAD x", f"SETNX {_k('ckpt')} x"),
    *(f"HSET {_k('ctl')} mode x", f"HINCRBY {_k('cursor')} x 1", f"XADD {_k('weights')} * x y"),
]
"""Commands that change what only the learner may write."""

NOT_FOR_ACTORS = [
    *(f"DEL {_k('traj')}", f"GET {_k('ckpt')}", f"GET {_k('incarnation')}", f"HGETALL {_k('plans')}"),
    *(f"HGETALL {_k('request')}", f"HSET {_k('request')} verb stop", f"HSET {_k('desired')} actors 99"),
]

REFUSALS = ("NOPERM", "no permissions", "WRONGTYPE", "DEBUG command not allowed")
"""Texts of refusals: by the rules, by the kind of a key, and by a server that has DEBUG switched off."""

NOT_FOR_VIEWERS = [
    *(f"XRANGE {_k('traj')} - +", f"XREAD STREAMS {_k('traj')} 0", f"HSET {_k('n')} a b", f"XADD {_k('news')} * a b"),
    *(f"XDEL {_k('traj')} 1-1", f"DEL {_k('traj')}", f"HDEL {_k('pub')} 1"),
]


def test_no_role_may_give_a_hostile_command(own: RedisServer) -> None:
    """As the users with which the processes of a run are connected."""
    refused = {
        Role.LEARNER: NOBODY,
        Role.COMMAND: NOBODY + ONLY_LEARNER,
        Role.OPERATOR: [*NOBODY, *ONLY_LEARNER, f"XRANGE {_k('traj')} - +", f"DEL {_k('traj')}"],
        Role.VIEWER: NOBODY + ONLY_LEARNER + NOT_FOR_VIEWERS,
        Role.ACTOR: NOBODY + ONLY_LEARNER + NOT_FOR_ACTORS,
    }
    accepted = []
    for role in Role:
        client = redis.Redis.from_url(own.url_of(role), protocol=2)
        for command in refused[role]:
            with client:
                try:
                    client.execute_command(*command.split())
                    accepted.append((role.value, command))
                except redis.ResponseError as error:
                    if not any(word in str(error) for word in REFUSALS):
                        accepted.append((role.value, f"{command}: {error}"))
    assert accepted == []
    assert redis.Redis.from_url(own.url_of(Role.LEARNER)).get(_k("incarnation")) == b"1"


def test_nobody_gets_in_without_a_password(own: RedisServer) -> None:
    for user, password in ((None, None), ("learner", "learner"), ("default", "")):
        client = redis.Redis(
            unix_socket_path=str(own.socket), username=user, password=password, retry=Retry(NoBackoff(), 0)
        )
        with pytest.raises(redis.AuthenticationError):
            client.ping()


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
    with pytest.raises(NoScriptsError, match="no learner has loaded them"):
        actor.hand_back([order])
