"""Brokers and ports for the tests of the wire. All of them talk to a real server."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from wire import ASYNC, make_spec, make_weights

from isentrope.rollout.actor_port import ActorPort
from isentrope.rollout.broker import Broker
from isentrope.rollout.learner_port import LearnerPort
from isentrope.rollout.server import RedisServer


@pytest.fixture
def broker(redis_server: str, run_name: str) -> Iterator[Broker]:
    """A connection to the shared server, for a run of its own."""
    broker = Broker.connect(redis_server, run_name, deadline_s=5.0)
    yield broker
    broker.close()


@pytest.fixture
def learner(redis_server: str, run_name: str) -> Iterator[LearnerPort]:
    """Learner 1 of an open run that has announced weights."""
    broker = Broker.connect(redis_server, run_name, deadline_s=5.0)
    learner = LearnerPort.fence(broker, 1, 0, 0, make_spec(run_name), ASYNC)
    learner.announce(make_weights())
    yield learner
    broker.close()


@pytest.fixture
def actor(broker: Broker) -> ActorPort:
    """An actor of the same run as `learner`."""
    return ActorPort(broker, "a1")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    """A started server that the test may kill."""
    with RedisServer(fsync="always") as server:
        server.start(tmp_path / "redis")
        yield server
