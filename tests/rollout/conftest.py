"""Brokers and ports for the tests of the wire. All of them talk to a real server."""

from collections.abc import Iterator

import pytest
from wire_records import ASYNC, make_actor_port, make_spec, make_weights

from isentrope.rollout.broker.actor_port import ActorPort
from isentrope.rollout.broker.connection import Broker
from isentrope.rollout.broker.learner_port import LearnerPort


@pytest.fixture
def broker(redis_server: str, run_name: str) -> Iterator[Broker]:
    """A connection to the shared server, for a run of its own."""
    broker = Broker.connect(redis_server, run_name)
    yield broker
    broker.close()


@pytest.fixture
def learner(redis_server: str, run_name: str) -> Iterator[LearnerPort]:
    """Learner 1 of an open run that has announced weights."""
    broker = Broker.connect(redis_server, run_name)
    learner = LearnerPort.fence(broker, 1, 0, 0, make_spec(run_name), ASYNC)
    learner.announce(make_weights())
    yield learner
    broker.close()


@pytest.fixture
def actor(broker: Broker) -> ActorPort:
    """An actor of the same run as `learner`."""
    return make_actor_port(broker, "a1")
