"""An hour of a run without an engine: learner, actors and broker, whose memory, files and threads must not grow.

The engine is left out because load is the subject: many batches a second instead of one in some seconds.
`ISENTROPE_SOAK_S` says for how many seconds (3,600 by default).
"""

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil
import pytest
import totals
from feeding import P, Run, weights
from wire_records import answer, make_actor_port

from isentrope.redis_server import RedisServer
from isentrope.rollout.broker.access import Role
from isentrope.rollout.broker.actor_port import ActorPort
from isentrope.rollout.broker.connection import Broker
from isentrope.rollout.broker.run_view import ActorState, RunView
from isentrope.rollout.broker.waiting import why_waiting
from isentrope.rollout.wire.types import EvalOrder, EvalResult, WorkOrder, version_of

NAME = "long"
SECONDS = float(os.environ.get("ISENTROPE_SOAK_S", "3600"))
WARM_SHARE = 0.25
"""Share of the time that counts as warm-up."""
BATCHES_PER_CHECKPOINT = 20
ACTORS = 2
MB = 1e6


class StubActor:
    """An actor that answers each order at once, and sends heartbeats."""

    def __init__(self, url: str, name: str) -> None:
        self.broker = Broker.connect(url, NAME)
        self.port: ActorPort = make_actor_port(self.broker, name)
        self.ended = threading.Event()
        self.error: Exception | None = None
        self.version = version_of(1, 0)
        self.thread = threading.Thread(target=self._serve)

    def _serve(self) -> None:
        beat_at = 0.0
        try:
            while not self.ended.is_set():
                if time.monotonic() - beat_at > self.port.view.spec(1.0).heartbeat_s:
                    self.port.heartbeat(ActorState(id=self.port.actor, boot=self.port.actor))
                    self.port.refresh([])
                    self.port.news.wait(0.0)
                    beat_at = time.monotonic()
                version = self.version
                for order in self.port.take(P, 0.2):
                    self.port.publish(answer(order, version=version, actor=self.port.actor), order)
                for wanted in self.port.take_eval(4, 0.0, version):
                    group = answer(WorkOrder(wanted.index, 0, 1, 0, 0, "", ""), version=version)
                    self.port.publish_eval(EvalResult(wanted.name, version, group), wanted)
        except Exception as error:
            self.error = error


@contextmanager
def actors(url: str) -> Iterator[list[StubActor]]:
    made = [StubActor(url, f"a{number}") for number in range(ACTORS)]
    for each in made:
        each.thread.start()
    try:
        yield made
    finally:
        for each in made:
            each.ended.set()
            each.thread.join()
            each.broker.close()


@pytest.mark.soak
def test_nothing_grows(tmp_path: Path) -> None:
    me = psutil.Process()
    samples: list[tuple[float, ...]] = []
    with RedisServer(run=NAME) as server:
        server.start(tmp_path)
        run = Run(server.url_of(Role.LEARNER), NAME, batches=1 << 40)
        learner = run.learner()
        view = RunView(Broker.connect(server.url_of(Role.VIEWER), NAME))
        with actors(server.url_of(Role.ACTOR)) as stubs:
            started = looked_at = time.monotonic()
            ends_at = started + SECONDS
            while not time.monotonic() >= ends_at:  # a time to end, which bounds nothing
                batch = learner.next()
                learner.feeder.trained()
                del batch
                learner.feeder.announce(weights(1, learner.ledger.batches))
                for stub in stubs:
                    stub.version = version_of(1, learner.ledger.batches)
                if learner.ledger.batches % BATCHES_PER_CHECKPOINT == 0:
                    learner.feeder.commit(learner.feeder.commit_facts(), f"batch {learner.ledger.batches}")
                    orders = [EvalOrder("held-out", index, learner.version, 2, "") for index in range(4)]
                    learner.feeder.call(lambda port, orders=orders: port.issue_eval(orders))
                    learner.feeder.call(lambda port: port.admit_eval(8, 0.0))
                    if time.monotonic() - looked_at > SECONDS / 100:
                        looked_at = time.monotonic()
                        assert why_waiting(view, learner.port.spec)
                        used, _ = view.memory()
                        of_server = psutil.Process(server.pid)
                        samples.append(
                            (
                                looked_at - started,
                                me.memory_info().rss / MB,
                                of_server.memory_info().rss / MB,
                                used / MB,
                                me.num_fds() + of_server.num_fds(),
                                me.num_threads(),
                                len(me.children(recursive=True)),
                            )
                        )
            assert [stub.error for stub in stubs] == [None] * ACTORS
        batches, reissued = learner.ledger.batches, view.counters().get("reissued", 0)
        view.broker.close()
        run.close()
    table = np.array([sample for sample in samples if sample[0] > WARM_SHARE * SECONDS])
    slopes = [float(np.polyfit(table[:, 0], table[:, column], 1)[0]) * 600 for column in (1, 2, 3)]
    third = len(table) // 3  # a file or a process comes for a moment when the server writes its log anew
    growth = np.median(table[-third:, 4:], axis=0) - np.median(table[:third, 4:], axis=0)
    names = ("own memory, MB in 10 min", "server's memory, MB in 10 min", "server's data, MB in 10 min")
    found = dict(zip(names, (round(each, 3) for each in slopes), strict=True))
    found |= dict(zip(("files, growth", "threads, growth", "processes, growth"), growth.tolist(), strict=True))
    found |= {"seconds": round(SECONDS), "batches": batches, "orders again": reissued}
    totals.add("a run without an engine", "1", found)
    assert max(slopes) < 1.0 and growth[0] <= 2 and max(growth[1:]) <= 0 and reissued == 0
