"""Both ends of the delivery protocol, each for a machine of its own: real ports and intake, without engine or training.

python port_ends.py learner URL RUN            trains until the file `finish` is in the home folder, and a little more
python port_ends.py actor URL RUN NAME TOKENS  answers orders with responses of so many tokens
"""

import itertools
import json
import logging
import sys
import threading
import time
from pathlib import Path

import numpy as np
from feeding import Learner, P, assert_exactly_once, running
from wire_records import answer, make_spec

from isentrope.rollout.broker.actor_port import ActorPort, PublishResult
from isentrope.rollout.broker.connection import Broker
from isentrope.rollout.broker.run_view import ActorStage, ActorState, RunView
from isentrope.rollout.config import SamplingConfig
from isentrope.rollout.wire.control import RunState
from isentrope.rollout.wire.types import Finish, Response

HEARTBEAT_S = 1.0
CHECKPOINT_EVERY = 10
NEVER = 10**6
"""Batches of a run that ends when it is told to."""
LAST = 20
"""Batches of the second learner; more groups than are issued ahead."""

MAX_TOKENS = 1_000_000
"""Tokens that a response may have: more than one of any actor has here."""

GENERATE_S = 0.05
"""Time in which an order is held, at least."""

logger = logging.getLogger(__name__)


def learn(url: str, run_name: str) -> None:
    """Train and tell every batch, until the file `finish` is there; then continue from a checkpoint for a few batches,
    and check that every order was done once."""
    finish = Path.home() / "finish"
    sampling = SamplingConfig(group_size=2, max_new_tokens=MAX_TOKENS)
    with running(url, run_name, batches=NEVER, spec={"heartbeat_s": HEARTBEAT_S, "sampling": sampling}) as run:
        learner = run.learner()
        while not finish.exists():
            train(learner)
            if learner.ledger.batches % CHECKPOINT_EVERY == 0:
                run.save(learner)
        run.save(learner)
        run.kill(learner)
        run.batches = learner.ledger.batches + LAST
        learner = run.learner()
        while learner.ledger.batches < run.batches:
            train(learner)
        assert_exactly_once(run, learner)
        tell(json.dumps({"exactly_once": True, "counters": learner.feeder.counters()}))


def train(learner: Learner) -> None:
    """Train one batch, and tell who made its groups."""
    batch = learner.next()
    learner.train(batch)
    actors = [group.actor for group in batch.groups]
    tell(json.dumps({"batch": learner.ledger.batches, "at": time.time(), "actors": actors}))


def tell(line: str) -> None:
    """Print a line at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


class Presence(threading.Thread):
    """The heartbeat of one actor, until its leases are taken away."""

    def __init__(self, port: ActorPort) -> None:
        super().__init__(daemon=True)
        self.port = port
        self.lost = threading.Event()
        self.start()

    def run(self) -> None:
        """The thread."""
        state = ActorState(id=self.port.actor, state=ActorStage.SERVING)
        while self.port.heartbeat(state):
            self.port.reap()
            self.lost.wait(HEARTBEAT_S / 2)
        self.lost.set()


def act(url: str, run_name: str, name: str, tokens: int) -> None:
    """Answer orders, under a new id whenever the leases were taken away, until the process is ended."""
    for life in itertools.count(1):
        broker = Broker.connect(url, run_name, deadline_s=120.0)
        RunView(broker).spec(120.0)
        presence = Presence(ActorPort(broker, f"{name}.{life}", make_spec(run_name, heartbeat_s=HEARTBEAT_S)))
        tell(f"{presence.port.actor} joins")
        while not presence.lost.is_set():
            _turn(presence.port, tokens)
        tell(f"{presence.port.actor} has lost its leases")


def _turn(port: ActorPort, tokens: int) -> None:
    manifest, control = port.view.weights(), port.view.control()
    while manifest is None or (control is not None and control.state is RunState.STOP):
        time.sleep(0.05)
        manifest, control = port.view.weights(), port.view.control()
    generating, hold = threading.Event(), Path.home() / "hold"
    orders = port.take(P, 0.2)
    if orders and hold.exists():
        tell(f"{port.actor} holds {len(orders)}")
        while hold.exists():
            time.sleep(0.05)
    for order in orders:
        generating.wait(GENERATE_S)
        group = answer(
            order, version=manifest.version, actor=port.actor, responses=_responses(tokens, manifest.version)
        )
        while port.publish(group, order) is PublishResult.FULL:
            time.sleep(0.05)


def _responses(tokens: int, version: int) -> tuple[Response, Response]:
    response = Response(
        tokens=np.ones(tokens, np.int32),
        logp_rollout=np.full(tokens, -1.0, np.float32),
        mask=np.ones(tokens, np.bool_),
        span_start=np.zeros(1, np.int32),
        span_version=np.full(1, version, np.int64),
        finish=Finish.LENGTH,
        reward=1.0,
        seed=1,
    )
    return response, response


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    end, url, run_name, *rest = sys.argv[1:]
    if end == "learner":
        learn(url, run_name)
    else:
        act(url, run_name, rest[0], int(rest[1]))
