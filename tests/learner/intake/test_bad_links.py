"""Learner and actor behind links that are cut, half open, late or slow: nothing is lost, nothing is trained twice."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from urllib.parse import urlsplit

import pytest
from feeding import Actor, P, assert_exactly_once, finish, running
from links import Fault, Link
from waits import DEADLINE_S, wait_until
from wire_records import make_actor_port

from isentrope.redis_server import RedisServer
from isentrope.rollout.broker import actor_port, connection, learner_port, news
from isentrope.rollout.broker.actor_port import PublishResult
from isentrope.rollout.broker.connection import Broker
from isentrope.rollout.wire.types import version_of

FAULTS = [fault for fault in Fault if fault is not Fault.NONE]
V0 = version_of(1, 0)

LIMIT_S = 1.0
"""Longest silence of a connection, instead of a quarter of a minute."""

Note = Callable[[str, object], None]


@dataclass
class Places:
    """A broker, and the link to it. direct, linked: URLs."""

    link: Link
    direct: str
    linked: str

    def actor(self, url: str) -> Actor:
        return Actor(make_actor_port(Broker.connect(url, "links", deadline_s=DEADLINE_S), "a1"))


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Places]:
    monkeypatch.setattr(connection, "SOCKET_TIMEOUT_S", LIMIT_S)
    for module in (actor_port, learner_port, news):
        monkeypatch.setattr(module, "BLOCK_S", LIMIT_S / 2)
    with RedisServer() as server:
        url = server.start(tmp_path / "redis")
        with Link(str(server.socket)) as link:
            yield Places(link, url, f"redis://{urlsplit(url).netloc}{link.place}")


@pytest.mark.parametrize("fault", FAULTS)
def test_a_learner_behind_a_bad_link_trains_on(places: Places, fault: Fault, record_testsuite_property: Note) -> None:
    with running(places.linked, "links") as run:
        learner, actor = run.learner(), places.actor(places.direct)
        actor.work(P, V0)
        with places.link.bad(fault):
            actor.work(P, V0)
            wait_until(places.link.bites, f"{places.link.met} pieces, {places.link.tried} connections")
        healed = monotonic()
        learner.train(learner.next())
        record_testsuite_property(f"seconds to a batch after the learner's link was {fault}", monotonic() - healed)
        finish(learner, actor, run.batches)
        assert_exactly_once(run, learner)


@pytest.mark.parametrize("fault", FAULTS)
def test_an_actor_behind_a_bad_link_loses_nothing(
    places: Places, fault: Fault, record_testsuite_property: Note
) -> None:
    with running(places.direct, "links") as run, ThreadPoolExecutor() as pool:
        learner, actor = run.learner(), places.actor(places.linked)
        orders = actor.take(P)
        with places.link.bad(fault):
            published = [pool.submit(actor.publish, order, V0) for order in orders]
            wait_until(places.link.bites, f"{places.link.met} pieces, {places.link.tried} connections")
        healed = monotonic()
        learner.train(learner.next())
        record_testsuite_property(f"seconds to a batch after the actor's link was {fault}", monotonic() - healed)
        assert {each.result() for each in published} <= {PublishResult.DONE, PublishResult.DUPLICATE}
        finish(learner, actor, run.batches)
        assert_exactly_once(run, learner)
