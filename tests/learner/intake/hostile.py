"""A hostile actor: commands that the access rules let it give, and honest parties that go on beside it."""

import random
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import redis
from feeding import Actor, Learner, P, Run
from servers import binary_of
from waits import DEADLINE_S, wait_until
from wire_records import answer, make_actor_port, make_response

from isentrope.errors import NameTakenError
from isentrope.learner.intake.buffer import ReadyBatch
from isentrope.learner.intake.run_check import Asked, RunCheck
from isentrope.redis_server import RedisServer
from isentrope.rollout.broker.access import RIGHTS, Role
from isentrope.rollout.broker.connection import SCRIPT_KEYS, Broker
from isentrope.rollout.broker.keys import ACTORS, LEARNER
from isentrope.rollout.broker.run_view import ActorState, RunView
from isentrope.rollout.broker.waiting import why_waiting
from isentrope.rollout.wire.seeds import sampling_seed
from isentrope.rollout.wire.types import EvalOrder, EvalResult, Group, WorkOrder, version_of

NAME = "hostile"
KEYS = sorted(f"{{{NAME}}}:{key.replace('*', '3')}" for key in RIGHTS[Role.ACTOR].keys)
"""All that an actor may write."""
STREAMS = {f"{{{NAME}}}:{name}" for name in ("work", "work:hi", "eval", "evald", "traj", "news", "news:3")}

LAST = 2**64 - 1
IDS = ["*", "*", f"{LAST}-{LAST}", f"{LAST}-{LAST - 3}", "5-1"]
VALUES = [
    *(b"", b"0", b"1", b"-1", b"1.5", b"nan", b"inf", b"9223372036854775807", b"9" * 40, b"abc", b"\xff\xfe", b"!"),
    *(b"open:0", b"open:" + b"9" * 40, b"open:", b"done:0:1-1", b'{"id": "honest", "boot": "other"}', b"group", b"all"),
    *(b"open:7", b"done:7:1-1"),
    *(b"tombstone", b"held-out", b"\x1b[2J\x1b]0;x\x07", b"a=" * 9000, b"a" * 30_000, b"[" * 20_000, b"\x81" * 500),
]
FIELDS = [
    *("kind", "seq", "attempt", "incarnation", "min_version", "tries", "payload", "actor", "reason", "detail", "crc"),
    *("name", "index", "version", "samples", "topic", "record", "bytes", "issued", "published", "eval_serial"),
    *("honest", "first", "http://m1:1", "x", "0", "1", "2", "3", "7", "11", "held-out"),
]
GROUPS = [(ACTORS, "ghost"), (ACTORS, "honest"), (ACTORS, b"\xff"), (LEARNER, LEARNER), (LEARNER, "ghost")]


class Hostile:
    """The hostile actor's connection; `VERBS` names what it can do to a key."""

    def __init__(self, url: str) -> None:
        self.client: Any = redis.Redis.from_url(url, protocol=2)
        self.scripts = Broker.connect(url, NAME)
        self.dice = random.Random(0)
        self.given = self.refused = 0

    def close(self) -> None:
        self.scripts.close()
        self.client.close()

    def give_any(self) -> None:
        """Give a command of any kind to any key, mostly one that the key's type takes."""
        key = self.dice.choice(KEYS)
        fitting = FOR_STREAMS if key in STREAMS else FOR_HASHES
        self.give(self.dice.choice(fitting if self.dice.random() < 0.8 else VERBS), key)

    def give(self, verb: str, key: str) -> None:
        """Give a command; what the server refuses is one too."""
        self.given += 1
        try:
            getattr(self, verb)(key)
        except redis.ResponseError:
            self.refused += 1

    def _fields(self) -> dict[str, bytes]:
        return {self.dice.choice(FIELDS): self.dice.choice(VALUES) for _ in range(self.dice.randint(1, 8))}

    def add(self, key: str) -> None:
        self.client.xadd(key, self._fields(), id=self.dice.choice(IDS))

    def add_last(self, key: str) -> None:
        self.client.xadd(key, {"x": "y"}, id=f"{LAST}-{LAST}")

    def add_and_trim(self, key: str) -> None:
        self.client.xadd(key, self._fields(), maxlen=0, approximate=False)

    def add_many(self, key: str) -> None:
        self.client.xadd(key, {str(number): b"x" for number in range(9000)})

    def set(self, key: str) -> None:
        known = self.client.hkeys(key) or FIELDS
        self.client.hset(
            key, self.dice.choice([self.dice.choice(known), self.dice.choice(FIELDS)]), self.dice.choice(VALUES)
        )

    def count(self, key: str) -> None:
        self.client.hincrby(key, self.dice.choice(FIELDS), self.dice.choice([1, -1, 2**62, -(2**62)]))

    def empty(self, key: str) -> None:
        """Delete all fields, and with the last one the key."""
        self.client.hdel(key, *self.client.hkeys(key))

    def become_a_stream(self, key: str) -> None:
        self.give("empty", key)
        self.add(key)

    def remove(self, key: str) -> None:
        entries = [entry_id for entry_id, _ in self.client.xrange(key)]
        self.client.xdel(key, *self.dice.sample(entries, self.dice.randint(1, len(entries))) if entries else ["0-1"])

    def release(self, key: str) -> None:
        group, _ = self.dice.choice(GROUPS)
        self.client.xack(key, group, *(entry_id for entry_id, _ in self.client.xrange(key)))

    def take(self, key: str) -> None:
        group, consumer = self.dice.choice(GROUPS)
        self.client.xreadgroup(group, consumer, {key: ">"}, count=9, noack=self.dice.random() < 0.5)

    def script(self, key: str) -> None:
        """Call a script of the run on keys, and with values, of another kind."""
        name = self.dice.choice(sorted(SCRIPT_KEYS))
        keys = [key, *(self.dice.choice(KEYS) for _ in range(self.dice.randint(1, 22)))]
        values = [self.dice.choice([*VALUES, *FIELDS]) for _ in range(self.dice.randint(0, 12))]
        self.client.evalsha(self.scripts._scripts[name].digest, len(keys), *keys, *values)

    def own_script(self, key: str) -> None:
        """Call a script as it is meant, with values of any kind."""
        name = self.dice.choice(sorted(SCRIPT_KEYS))
        keys = [getattr(self.scripts.keys, each) for each in SCRIPT_KEYS[name].split()] + [key]
        values = [self.dice.choice([*VALUES, *FIELDS]) for _ in range(self.dice.randint(0, 12))]
        self.client.evalsha(self.scripts._scripts[name].digest, len(keys), *keys, *values)


FOR_STREAMS = ("add", "add_last", "add_and_trim", "add_many", "remove", "release", "take")
FOR_HASHES = ("set", "count", "empty", "become_a_stream")
VERBS = [name for name in vars(Hostile) if not name.startswith("_") and name not in ("give", "give_any", "close")]


def asked(_: int) -> Asked:
    """The prompt of every order."""
    made = answer(WorkOrder(0, 0, 1, 0, 0, "", ""))
    return Asked(made.prompt, made.source)


SEED = 1
CHECK = RunCheck(SEED, asked, lambda index, name: asked(index))


class Scene:
    """A run on a server with the users of roles: honest learner, actor and viewer, and the hostile actor."""

    def __init__(self, server: RedisServer) -> None:
        self.server = server
        spec = {"heartbeat_s": 0.1, "max_bytes": 1 << 20}
        self.run = Run(server.url_of(Role.LEARNER), NAME, batches=100_000, spec=spec, check=CHECK)
        self.view = RunView(Broker.connect(server.url_of(Role.VIEWER), NAME, deadline_s=DEADLINE_S))
        self.hostile = Hostile(server.url_of(Role.ACTOR))
        self._number = 0
        self.ports: list[Broker] = []
        self.learner = self.run.learner(reconcile_after_s=0.3)
        self.actor = self.join()

    def join(self) -> Actor:
        """An honest actor under an id that was not used."""
        self._number += 1
        self.ports.append(Broker.connect(self.server.url_of(Role.ACTOR), NAME, deadline_s=DEADLINE_S))
        return Actor(make_actor_port(self.ports[-1], f"honest.{self._number}", heartbeat_s=0.1))

    def succeed(self, *, saved: bool) -> None:
        """Let another learner take over."""
        if saved:
            self.run.save(self.learner)
        self.run.kill(self.learner)
        self.learner = self.run.learner(reconcile_after_s=0.3)

    def go_on(self) -> None:
        """Everything that all sides do again and again, until one more batch is trained."""
        self._actor_beats()
        self._evaluate()
        assert why_waiting(self.view, self.learner.port.spec) and self.view.counters() is not None
        assert self.view.leaving() is not None and self.view.queues() and self.view.actors() is not None
        batch = wait_until(self._next, self.learner.feeder.why_waiting)
        for group in batch.groups:
            check(group)
        self.learner.train(batch)

    def close(self) -> None:
        self.run.close()
        self.hostile.close()
        for broker in [self.view.broker, *self.ports]:
            broker.close()

    def _next(self) -> ReadyBatch | None:
        if (batch := self.learner.feeder.next_batch(0.0)) is None:
            for order in self.actor.port.take(P, 0.05):
                self.actor.port.publish(honest(order, self.learner.version), order)
        return batch

    def _actor_beats(self) -> None:
        port = self.actor.port
        with suppress(NameTakenError):
            if not port.heartbeat(ActorState(id=port.actor, boot="honest")):
                self.actor = self.join()
        port.reap()
        port.refresh([])
        port.asked_to_leave()
        port.news.wait(0.0)

    def _evaluate(self) -> None:
        port, version = self.actor.port, self.learner.version
        orders = [EvalOrder("held-out", index, version, 2, "") for index in range(2)]
        self.learner.feeder.call(lambda learner: learner.issue_eval(orders))
        port.eval_version(version)
        port.my_turn(version)
        for wanted in port.take_eval(4, 0.0, version):
            group = answer(WorkOrder(wanted.index, 0, 1, 0, 0, "", ""), version=version)
            port.publish_eval(EvalResult(wanted.name, version, group), wanted)
        self.learner.feeder.call(lambda learner: learner.admit_eval(8, 0.0))


def honest(order: WorkOrder, version: int) -> Group:
    seeds = [sampling_seed(SEED, order.seq, order.attempt, place) for place in range(2)]
    responses = tuple(make_response(version, seed=seed) for seed in seeds)
    return answer(order, version=version, actor="honest", responses=responses)


def check(group: Group) -> None:
    """Fail for a group that no honest actor made. Knows nothing of the program's own checks."""
    made = answer(WorkOrder(group.seq, group.attempt, 1, 0, 0, "", ""), version=version_of(1, 0))
    assert group.actor == "honest" and np.array_equal(group.prompt, made.prompt)
    assert len(group.responses) == len(made.responses)
    for found, expected in zip(group.responses, made.responses, strict=True):
        assert np.array_equal(found.tokens, expected.tokens) and np.array_equal(found.mask, expected.mask)
        assert np.array_equal(found.logp_rollout, expected.logp_rollout) and found.reward == expected.reward


@contextmanager
def scene(kind: str, folder: Path) -> Iterator[Scene]:
    """Yield a scene on a server of its own; `kind` as in `servers`."""
    with RedisServer(run=NAME, binary=binary_of(kind)) as server:
        server.start(folder)
        playing = Scene(server)
        try:
            yield playing
        finally:
            playing.close()


def trained(learner: Learner) -> list[int]:
    return [seq for batch in learner.lineage for seq in batch]
