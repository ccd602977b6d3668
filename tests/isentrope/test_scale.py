"""The wanted number of actors is a state in the broker; actors that others have joined are shown, and only asked."""

import io
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console
from wire_records import ASYNC, make_actor_port, make_spec

from isentrope.actors.config import ActorsConfig
from isentrope.errors import ConfigError
from isentrope.rollout.broker.connection import Broker
from isentrope.rollout.broker.learner_port import LearnerPort
from isentrope.rollout.broker.run_view import ActorStage, ActorState
from isentrope.run_place import RunPlace
from isentrope.scale import Scaling, changed, scale


@pytest.fixture
def learner(redis_server: str, run_name: str) -> Iterator[LearnerPort]:
    broker = Broker.connect(redis_server, run_name)
    actors = ActorsConfig(count=2, min=1, max=4).model_dump(mode="json", exclude={"heartbeat_s", "max_tries"})
    yield LearnerPort.fence(broker, 1, 0, 0, make_spec(run_name, actors=actors), ASYNC)
    broker.close()


def ask(learner: LearnerPort, url: str, change: str, *, external: bool = False) -> dict[str, object]:
    out = io.StringIO()
    request = Scaling(RunPlace(Path(), name=learner.spec.run), change, external)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ISENTROPE_REDIS_URL", url)
        assert scale(request, True, Console(file=out, width=200)) == 0
    told: dict[str, object] = json.loads(out.getvalue())
    return told


def join(url: str, run: str, name: str, leases: int) -> None:
    broker = Broker.connect(url, run)
    state = ActorState(id=name, state=ActorStage.SERVING, leases=leases)
    make_actor_port(broker, name).heartbeat(state)
    broker.close()


@pytest.mark.parametrize(
    ("change", "after"), [("actors=5", 5), ("actors=+2", 5), ("actors=-2", 1), ("actors=0", 0), ("actors=-3", 0)]
)
def test_a_change_is_a_number_or_a_difference(change: str, after: int) -> None:
    assert changed(change, 3) == after


@pytest.mark.parametrize("change", ["5", "actors", "actors=x", "actors=1.5", "ranks=2", "actors=-4", "actors=--1"])
def test_anything_else_is_refused_with_what_to_write(change: str) -> None:
    with pytest.raises(ConfigError) as raised:
        changed(change, 3)
    assert "actors=" in raised.value.fix


def test_the_number_begins_as_in_the_run_file_and_is_counted_from_the_last_that_was_asked_for(
    learner: LearnerPort, redis_server: str
) -> None:
    assert ask(learner, redis_server, "actors=+1") == {
        "run": learner.spec.run,
        "before": 2,
        "wanted": 3,
        "external": [],
        "asked_to_leave": [],
    }
    assert ask(learner, redis_server, "actors=+1")["wanted"] == 4
    desired = learner.view.desired()
    assert desired is not None and desired.actors == 4


@pytest.mark.parametrize(("change", "bound"), [("actors=5", "actors.max = 4"), ("actors=0", "actors.min = 1")])
def test_bounds_of_the_run_file_hold(learner: LearnerPort, redis_server: str, change: str, bound: str) -> None:
    with pytest.raises(ConfigError, match=bound):
        ask(learner, redis_server, change)
    assert learner.view.desired() is None


def test_external_actors_are_shown_and_asked_to_leave_only_on_request(learner: LearnerPort, redis_server: str) -> None:
    for name, leases in (("a1", 1), ("guest-1", 2), ("guest-2", 1)):
        join(redis_server, learner.spec.run, name, leases)
    assert ask(learner, redis_server, "actors=1")["external"] == ["guest-1", "guest-2"]
    assert learner.view.leaving() == {}
    assert ask(learner, redis_server, "actors=-1", external=True)["asked_to_leave"] == ["guest-2"]
    assert learner.view.leaving() == {"guest-2": 30.0}
    with pytest.raises(ConfigError, match="starts none"):
        ask(learner, redis_server, "actors=9", external=True)
