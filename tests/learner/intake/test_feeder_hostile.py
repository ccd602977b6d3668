"""Whatever an actor may write, honest parties go on: every batch is trained, of groups that honest actors made."""

import contextlib
import random
from pathlib import Path

import pytest
import redis
import totals
from feeding import WatchedPort, running
from hostile import KEYS, VERBS, Scene, scene, trained
from servers import BOTH

from isentrope.redis_server import RedisServer
from isentrope.rollout.broker.access import Role
from isentrope.rollout.broker.learner_port import Entry

VERBS_BEFORE_A_BATCH = 3
COMMANDS = 5000
FLOODS = 10


@pytest.mark.parametrize("kind", BOTH)
@pytest.mark.parametrize("key", KEYS, ids=lambda key: key.partition(":")[2])
def test_whatever_an_actor_does_to_a_key_the_run_goes_on(kind: str, key: str, tmp_path: Path) -> None:
    with scene(kind, tmp_path) as playing:
        for number, verb in enumerate(VERBS, 1):
            for _ in range(3):
                playing.hostile.give(verb, key)
            if number % VERBS_BEFORE_A_BATCH == 0:
                playing.go_on()
        playing.succeed(saved=True)
        playing.go_on()
        assert len(trained(playing.learner)) == len(set(trained(playing.learner)))


@pytest.mark.parametrize("with_orders", [False, True], ids=["marks", "marks and orders"])
def test_an_attempt_that_was_never_ordered_makes_no_honest_group_invalid(with_orders: bool, tmp_path: Path) -> None:
    with scene("own", tmp_path) as playing:
        playing.go_on()
        client = playing.hostile.client
        marks = client.hgetall("{hostile}:pub")
        for seq in (seq for seq, mark in marks.items() if mark.startswith(b"open")):
            client.hset("{hostile}:pub", seq, "open:7")
            if with_orders:
                order = {"seq": seq, "attempt": 7, "incarnation": 1, "min_version": 0, "tries": 0}
                client.xadd("{hostile}:work:hi", order)
        for _ in range(3):
            playing.go_on()
        assert playing.learner.feeder.status().retired == {}


def test_a_flood_of_entries_does_not_keep_a_learner_from_its_next_step(
    redis_server: str, run_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As long as it reads what is there, as much as it reads comes."""
    admit, floods = WatchedPort.admit, 0

    def flooded(port: WatchedPort, count: int, block_s: float) -> list[Entry]:
        nonlocal floods
        if block_s == 0.0 and floods < FLOODS:
            floods += 1
            flood(port, count)
        return admit(port, count, block_s)

    monkeypatch.setattr(WatchedPort, "admit", flooded)
    with running(redis_server, run_name) as run:
        first = run.learner()
        run.kill(first)
        flood(first.port, 1)
        run.learner(reconcile_after_s=1e9)
        assert floods < FLOODS


def flood(port: WatchedPort, count: int) -> None:
    def junk(client: redis.Redis) -> object:
        entry = {"kind": "tombstone", "seq": "1000", "attempt": "0", "actor": "x", "reason": "reward", "detail": ""}
        return client.xadd(port.broker.keys.traj, {**entry})

    for _ in range(count):
        port.broker.run(junk)


@pytest.mark.parametrize("kind", ["hash", "stream", "full"])
def test_a_run_opens_on_keys_that_an_actor_made_before(kind: str, tmp_path: Path) -> None:
    """The broker was empty: nothing had a type yet."""
    with RedisServer(run="hostile") as server:
        server.start(tmp_path)
        client = redis.Redis.from_url(server.url_of(Role.ACTOR))
        for key in KEYS:
            if kind == "hash":
                client.hset(key, "x", "y")
            else:
                client.xadd(key, {"x": "y"}, id="*" if kind == "stream" else f"{2**64 - 1}-{2**64 - 1}")
        client.close()
        with contextlib.closing(Scene(server)) as playing:
            playing.go_on()


@pytest.mark.soak
@pytest.mark.parametrize("kind", BOTH)
@pytest.mark.parametrize("seed", range(10))
def test_random_commands_end_nobody(kind: str, seed: int, tmp_path: Path) -> None:
    with scene(kind, tmp_path) as playing:
        dice = playing.hostile.dice = random.Random(seed)
        batches = 0
        while playing.hostile.given < COMMANDS:
            for _ in range(dice.randint(1, 500)):
                playing.hostile.give_any()
            playing.go_on()
            batches += 1
            if dice.random() < 0.15:
                playing.succeed(saved=dice.random() < 0.5)
        server = "Redis 7" if kind == "redis-7" else "Redis 6.2"
        counts = {"commands": playing.hostile.given, "refused": playing.hostile.refused, "batches trained": batches}
        counts |= {"processes ended": 0, "groups accepted that the checker refuses": 0}
        totals.add(f"hostile commands, {server}", str(seed), counts)
