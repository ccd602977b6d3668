"""Measure what the broker's thread does for many actors, and write `broker_load.json` beside this file.

    python docs/results/broker_load.py                # 1,000 actors, and costs of calls for 1 to 1,000; five minutes
    python docs/results/broker_load.py --actors 100
    PATH=FOLDER:$PATH python docs/results/broker_load.py --to broker_load_redis_7.json    # the server in FOLDER instead

Actors are real ports, paced as `actors/actor.py` paces them: blocked in reads of orders and news, a heartbeat in five
seconds. They generate nothing. The server is the one that a run would start, by TCP, with its append-only file. Shares
are processor time of its main thread; other load on the machine makes them larger by the switches that it causes, and
the latencies much more. Actors have machines of their own in a cluster: here, where the system can (Linux, as root),
the server and the probe go before them.
"""

import argparse
import dataclasses
import json
import multiprocessing
import os
import platform
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path

import numpy as np
import psutil
import redis

from isentrope.redis_server import find_binary
from isentrope.rollout.broker.actor_port import ActorPort
from isentrope.rollout.broker.connection import BLOCK_S, Broker
from isentrope.rollout.broker.learner_port import LearnerPort
from isentrope.rollout.broker.news import Topic
from isentrope.rollout.broker.run_view import ActorStage, ActorState
from isentrope.rollout.broker.waiting import why_waiting
from isentrope.rollout.config import DataConfig, ModelConfig, SamplingConfig
from isentrope.rollout.wire.control import Control, Mode
from isentrope.rollout.wire.files import write_whole
from isentrope.rollout.wire.spec import RunSpec
from isentrope.rollout.wire.types import EvalOrder, Finish, Group, Response, WorkOrder, version_of
from isentrope.rollout.wire.weights import Manifest, Shard

DATA = Path(__file__).with_name("broker_load.json")
RUN = "load"
PROCESSES = 4
BEAT_S = 5.0
PHASE_S = 20.0
PROBE_S = 0.02
OPEN = version_of(1, 0)

Measured = dict[str, float]


# --- the server


@contextmanager
def server() -> Iterator[tuple[redis.Redis, str]]:
    """Yield a client of a new server, and its URL."""
    with tempfile.TemporaryDirectory() as folder:
        port = free_port()
        options = ["--port", str(port), "--bind", "127.0.0.1", "--appendonly", "yes", "--save", "", "--dir", folder]
        process = subprocess.Popen([str(find_binary()), *options], stdout=subprocess.DEVNULL, start_new_session=True)
        prefer(process.pid, -20)
        client = redis.Redis(port=port)
        try:
            while True:
                try:
                    client.ping()
                    break
                except redis.RedisError:
                    time.sleep(0.05)
            yield client, f"redis://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait()


def free_port() -> int:
    """Return a port of the loopback interface that nothing listens at."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def prefer(process: int, niceness: int) -> None:
    """Give the session of a process this niceness, if the system lets us: between sessions Linux compares no other."""
    with suppress(OSError):
        Path(f"/proc/{process}/autogroup").write_text(str(niceness))


def thread_s(client: redis.Redis) -> float:
    """Return the processor time of the server's main thread."""
    info = client.info("cpu")
    return float(info["used_cpu_sys_main_thread"]) + float(info["used_cpu_user_main_thread"])


def phase(client: redis.Redis, act: Callable[[], None], every_s: float) -> Measured:
    """Return the thread's share and a probe's latency over one phase, in which `act` is called now and then."""
    latencies, acts, began = [], 0, time.perf_counter()
    before = thread_s(client)
    while (now := time.perf_counter()) - began < PHASE_S:
        if now - began >= acts * every_s:
            threading.Thread(target=act).start()
            acts += 1
        asked = time.perf_counter()
        client.ping()
        latencies.append(time.perf_counter() - asked)
        time.sleep(PROBE_S)
    share = (thread_s(client) - before) / (time.perf_counter() - began)
    p50, p99 = (1e3 * float(np.quantile(latencies, at)) for at in (0.5, 0.99))
    return {"thread_share": round(share, 4), "probe_ms_p50": round(p50, 2), "probe_ms_p99": round(p99, 2)}


# --- the run


def spec() -> RunSpec:
    """Return the facts of a run of many actors."""
    return RunSpec(
        run=RUN,
        config_digest="load",
        seed=0,
        model=ModelConfig(path="m"),
        model_dir="m",
        vocab_size=200_000,
        data=DataConfig(train="task:digit_walk"),
        data_digest="load",
        sampling=SamplingConfig(),
        actors={},
        prompts_per_batch=4096,
        run_folder="/",
        output_dir="/",
        heartbeat_s=BEAT_S,
        max_bytes=1 << 40,
        max_record_bytes=1 << 30,
    )


def manifest(batch: int) -> Manifest:
    """Return weights of eight files."""
    files = [
        Shard(file=f"weights-{number:05d}.safetensors", size_bytes=2 << 30, digest="0" * 64) for number in range(9)
    ]
    return Manifest(
        version=version_of(1, batch),
        folder="/shared/run/weights/1048576",
        shards=tuple(files[:8]),
        dtype="bfloat16",
        tensors=files[8],
        canary=None,
        digest="0" * 64,
        created=0.0,
    )


def connect(url: str) -> Broker:
    """Return a connection of the run."""
    return Broker.connect(url, RUN)


def state(name: str) -> ActorState:
    """Return a heartbeat of usual size."""
    return ActorState(
        id=name, host="gpu-node-0123.cluster.local", pid=123_456, state=ActorStage.SERVING, version=OPEN,
        digest="0" * 64, leases=64, tokens_per_s=12_345.6, boot=name,
    )  # fmt: skip


# --- actors


class PacedActor:
    """One actor's calls, each loop in its own thread."""

    def __init__(self, port: ActorPort, batch: "Synchronized[int]", looked: "Synchronized[int]") -> None:
        self._port = port
        self._batch, self._looked = batch, looked
        for loop in (self._beat, self._listen, self._lease):
            threading.Thread(target=loop, daemon=True).start()

    def _beat(self) -> None:
        time.sleep(BEAT_S * np.random.default_rng(hash(self._port.actor) % 2**32).random())
        beats = 0
        while True:
            self._port.heartbeat(state(self._port.actor))
            self._port.reap()
            beats += 1
            if beats % 4 == 0:
                self._port.refresh([])
            time.sleep(BEAT_S)

    def _listen(self) -> None:
        """Look as `Actor` does, after the news."""
        seen = newest = 0
        while True:
            topics = self._port.news.wait(BLOCK_S)
            if Topic.CONTROL in topics:
                self._port.view.control_state()
            if Topic.LEAVE in topics:
                self._port.asked_to_leave()
            if Topic.WEIGHTS in topics and (weights := self._port.view.weights()) is not None:
                newest = weights.version
            if topics & {Topic.EVAL, Topic.WEIGHTS}:
                asked = self._port.eval_version(newest) or 0
                if 0 < asked < newest:
                    self._port.my_turn(asked)
            if newest != seen and newest == version_of(1, self._batch.value):
                seen = newest
                with self._looked.get_lock():
                    self._looked.value += 1

    def _lease(self) -> None:
        while True:
            self._port.take(8, BLOCK_S)


def serve(url: str, first: int, count: int, batch: "Synchronized[int]", looked: "Synchronized[int]") -> None:
    """Run so many actors, for ever."""
    os.setsid()
    prefer(os.getpid(), 19)
    threading.stack_size(256 << 10)
    facts = spec()
    for number in range(count):
        PacedActor(ActorPort(connect(url), f"actor-{first + number}", facts), batch, looked)
    threading.Event().wait()


def load(actors: int) -> dict[str, Measured]:
    """Return what the thread does for so many actors: idle, at announcements, and while an evaluation waits."""
    with server() as (client, url):
        learner = LearnerPort.fence(connect(url), 1, 0, 0, spec(), Control(mode=Mode.ASYNC, max_lag=8))
        learner.announce(manifest(0))
        batch, looked = multiprocessing.Value("i", 0), multiprocessing.Value("i", 0)
        share = -(-actors // PROCESSES)
        starts = [(url, first, min(share, actors - first), batch, looked) for first in range(0, actors, share)]
        processes = [multiprocessing.Process(target=serve, args=args, daemon=True) for args in starts]
        for process in processes:
            process.start()
        try:
            await_all(looked, actors)
            time.sleep(2 * BEAT_S)  # all have sent heartbeats
            found = {"idle": phase(client, learner_beats(learner), BEAT_S)}
            reached: list[float] = []

            def announce() -> None:
                learner.reap()
                with looked.get_lock():
                    looked.value = 0
                batch.value += 1
                began = time.perf_counter()
                learner.announce(manifest(batch.value))
                await_all(looked, actors)
                reached.append(time.perf_counter() - began)

            found["announcement_every_5_s"] = phase(client, announce, 5.0)
            while not reached:
                time.sleep(0.1)
            found["announcement_every_5_s"]["all_know_ms"] = round(1e3 * sorted(reached)[len(reached) // 2], 1)
            learner.issue_eval([EvalOrder("held-out", index, OPEN, 8, "") for index in range(200)])
            found["evaluation_of_an_older_version_waits"] = phase(client, learner_beats(learner), BEAT_S)
            found["connections"] = {"clients": float(client.info("clients")["connected_clients"])}
            return found
        finally:
            for process in processes:
                process.kill()


def learner_beats(learner: LearnerPort) -> Callable[[], None]:
    """Return the learner's part of each interval."""
    return lambda: [learner.reap()].clear()


def await_all(looked: "Synchronized[int]", actors: int) -> None:
    """Wait until every actor has seen the newest weights."""
    while looked.value < actors:
        time.sleep(0.005)


# --- single calls


def costs(actors: int) -> Measured:
    """Return the microseconds of the server's thread for each call, with so many actors in the run."""
    with server() as (client, url):
        learner = LearnerPort.fence(connect(url), 1, 0, 0, spec(), Control(mode=Mode.ASYNC, max_lag=8))
        learner.announce(manifest(1))
        shared = connect(url)
        ports = [ActorPort(shared, f"actor-{number}", spec()) for number in range(actors)]
        found: Measured = {}

        def cost(name: str, call: Callable[[int], object], times: int) -> None:
            before = thread_s(client)
            for number in range(times):
                call(number)
            found[name] = round(1e6 * (thread_s(client) - before) / times, 1)

        cost("issue, for 4,000 orders", lambda _: learner.issue(trained_batches=0, retired=0, limit=4000), 1)
        found["issue, per order"] = round(found.pop("issue, for 4,000 orders") / 4000, 1)
        cost("heartbeat", lambda number: ports[number % actors].heartbeat(state(ports[number % actors].actor)), 1000)
        for port in ports:
            port.heartbeat(state(port.actor))
        held = [(port, order) for port in ports for order in port.take(1, 0.0)]
        idle = ports[0].news
        cost("look at the news, nothing new", lambda _: idle.wait(0.0), 500)
        cost("look at everything", lambda number: look(ports[number % actors]), 500)
        cost("wake all parts, nobody blocked", lambda number: learner.view.request("async"), 100)
        cost("reap, actor", lambda number: ports[number % actors].reap(), 500)
        cost("reap, learner", lambda _: learner.reap(), 50)
        cost("turn", lambda number: ports[number % actors].my_turn(OPEN), 200)
        cost("view.actors()", lambda _: learner.view.actors(), 20)
        cost("why_waiting", lambda _: why_waiting(learner.view, spec()), 20)
        cost("take one order", lambda number: held.extend((ports[0], order) for order in ports[0].take(1, 0.0)), 200)
        for size, tokens in (("1 kB", 13), ("4.7 MB", 8192)):
            group = big_group(8 if tokens == 13 else 64, tokens)
            cost(f"publish {size}", lambda _, group=group: publish(group, *held.pop()), 20)
            entries = []
            cost(f"admit {size}", lambda _, entries=entries: entries.extend(learner.admit(1, 0.0)), 20)
            ids = [entry.id for entry in entries]
            cost(f"commit of 20 groups of {size}", lambda _, ids=ids: learner.commit(entries=ids, lwm=0, ckpt="c"), 1)
        return found


def look(port: ActorPort) -> None:
    """Read everything that an actor looks at."""
    port.news.wait(0.0)
    port.view.control_state()
    port.view.weights()
    port.asked_to_leave()
    port.eval_version(OPEN)


def publish(group: Group, port: ActorPort, order: WorkOrder) -> None:
    """Publish a group as that of `order`."""
    port.publish(dataclasses.replace(group, seq=order.seq), order)


def big_group(responses: int, tokens: int) -> Group:
    """Return a group of random tokens."""
    rng = np.random.default_rng(0)
    one = Response(
        tokens=rng.integers(0, 150_000, tokens, dtype=np.int32),
        logp_rollout=-rng.random(tokens, dtype=np.float32),
        mask=np.ones(tokens, np.bool_),
        span_start=np.zeros(1, np.int32),
        span_version=np.full(1, OPEN, np.int64),
        finish=Finish.STOP,
        reward=1.0,
        seed=1,
    )
    return Group(0, 0, "a", rng.integers(0, 1000, 300, dtype=np.int32), (one,) * responses, 1.0)


# --- the record


def main() -> None:
    """Measure, and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--actors", type=int, default=1000)
    parser.add_argument("--to", default=DATA.name, help="name of the file, beside this one")
    told = parser.parse_args()
    actors, data = told.actors, DATA.with_name(told.to)
    before = psutil.getloadavg()[0]
    prefer(os.getpid(), -20)
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    with server() as (client, _):
        version = client.info("server")["redis_version"]
    record = {
        "command": f"python docs/results/broker_load.py --actors {actors} --to {told.to}",
        "commit": commit,
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "machine": {"cores": psutil.cpu_count(), "system": platform.system(), "load_before": round(before, 1)},
        "redis": version,
        "actors": actors,
        "load": load(actors),
        "microseconds_of_the_thread": {str(count): costs(count) for count in (1, 10, 100, 1000)},
    }
    write_whole(data, json.dumps(record, indent=1) + "\n", durable=False)


if __name__ == "__main__":
    main()
