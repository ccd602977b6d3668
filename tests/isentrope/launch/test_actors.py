"""What becomes of single actors, and when that ends the run: nothing that an actor does ends a run that is served.

The ground is made of plain objects, because its faults are those of machines; real ones are in `system/test_room.py`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from isentrope.actors.config import ActorsConfig
from isentrope.actors.worker import ActorOptions
from isentrope.errors import ConfigError, UnreachableError
from isentrope.launch import actors as module
from isentrope.launch.actors import ActorPlan, Actors
from isentrope.launch.placement import NODE_ID, Bundle, Deaths, Node, matches
from isentrope.launch.ray_ground import End
from isentrope.rollout.broker.run_view import ActorStage, ActorState

START_S = 600.0


@dataclass
class Fake:
    """An actor that a test moves."""

    name: str
    selector: dict[str, str]
    boot: str
    at: str = ""
    ended: End | None = None
    removed: bool = False

    def node(self) -> str:
        return self.at

    def has_ended(self) -> bool:
        return self.ended is not None

    def end(self) -> End:
        assert self.ended is not None
        return self.ended

    def remove(self) -> None:
        self.removed = True


@dataclass
class FakeGround:
    """Nodes with so many places each."""

    room: dict[str, int]
    started: list[Fake] = field(default_factory=list)

    def start(self, options: ActorOptions, log: Path, selector: Mapping[str, str]) -> Fake:
        self.started.append(Fake(options.actor_id, dict(selector), options.boot))
        self.settle()
        return self.started[-1]

    def settle(self) -> None:
        """Give places to those that wait, as Ray does."""
        for actor in self.live():
            for node in self.nodes() if not actor.at else ():
                taken = sum(other.at == node.id for other in self.live())
                if taken < self.room[node.id] and matches(node.labels, actor.selector):
                    actor.at = node.id
                    break

    def live(self) -> list[Fake]:
        return [actor for actor in self.started if not actor.removed]

    def nodes(self) -> list[Node]:
        return [Node(name, f"host-{name}", 1.0, 0.0, {NODE_ID: name}) for name in self.room]

    def taken(self) -> set[str]:
        return set()

    def free(self) -> float:
        return 0.0


class Run:
    """A run whose time a test moves."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, count: int, room: dict[str, int]) -> None:
        self.now = 1000.0
        monkeypatch.setattr(module.time, "monotonic", lambda: self.now)
        self.ground = FakeGround(room)
        options = ActorOptions(url="", run="r", actor_id="")
        config = ActorsConfig(count=count, start_timeout_s=START_S)
        plan = ActorPlan(options, config, Bundle(1.0, 0), {}, Path("logs"))
        self.deaths = Deaths(3)
        self.actors = Actors(plan, 0, self.ground, self.deaths)
        self.stages: dict[str, ActorStage] = {}
        self.events: list[str] = []

    def look(self, after_s: float = 0.5) -> None:
        self.now += after_s
        states = [ActorState(id=name, state=stage) for name, stage in self.stages.items()]
        self.events += self.actors.tend(states)

    def until(self, seconds: float, step: float = 5.0) -> None:
        end = self.now + seconds
        while self.now < end:
            self.ground.settle()
            self.look(step)

    def serve(self, *names: str, stage: ActorStage = ActorStage.SERVING) -> None:
        self.stages |= dict.fromkeys(names, stage)
        self.look()

    def actor(self, name: str) -> Fake:
        return [each for each in self.ground.started if each.name == name][-1]

    def die(self, name: str, end: End | None = None) -> None:
        self.actor(name).ended = end or End("died")
        self.stages.pop(name, None)
        self.look()


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Any:
    return lambda count, room: Run(monkeypatch, count, room)


def test_an_actor_without_room_waits_for_ever_while_another_serves_and_comes_when_there_is_room(run: Any) -> None:
    there = run(2, {"a": 1})
    there.until(10.0)
    there.serve("a1")
    there.until(3 * START_S)
    assert there.actors.waits() == "waits for room: 1 actor of 1 CPU, free 0"
    assert there.actors.record().actors["a2"].state == "placing"
    there.ground.room["b"] = 1
    there.until(20.0)
    assert there.actors.waits() == "" and there.actors.record().actors["a2"].host == "host-b"
    there.until(START_S - 30)  # its time to start began when it had a place
    assert not there.actor("a2").removed


def test_a_run_that_nobody_serves_because_there_is_no_room_ends_and_says_so(run: Any) -> None:
    there = run(2, {})
    with pytest.raises(UnreachableError, match="no actor has served for 600 s: waits for room: 2 actors of 1 CPU"):
        there.until(2 * START_S)


def test_an_actor_that_never_comes_up_is_replaced_while_another_serves(run: Any) -> None:
    there = run(2, {"a": 1, "b": 1})
    there.until(5.0)
    there.serve("a1")
    there.until(START_S + 30)
    assert there.actor("a2").removed and "a2 has not started its engine for 600 s" in there.events[-1]
    assert there.actor("a3")


def test_an_actor_that_never_comes_up_alone_ends_the_run_and_names_the_key(run: Any) -> None:
    there = run(1, {"a": 1})
    with pytest.raises(UnreachableError, match="a1 has not started its engine") as raised:
        there.until(2 * START_S)
    assert "actors.start_timeout_s" in raised.value.fix


def test_engines_that_run_wait_for_the_learner_as_long_as_it_takes(run: Any) -> None:
    there = run(1, {"a": 1})
    there.until(10.0)
    there.serve("a1", stage=ActorStage.SYNCING)
    there.until(3 * START_S)
    assert not there.actor("a1").removed


def test_five_deaths_in_a_row_end_a_run_that_nobody_serves(run: Any) -> None:
    there = run(1, {"a": 1})
    there.until(5.0)
    with pytest.raises(UnreachableError, match="5 actors in a row ended before they served, the last, a5, died"):
        for number in range(1, 6):
            there.die(f"a{number}")
            there.until(70.0)


def test_deaths_do_not_end_a_run_that_a_guest_serves(run: Any) -> None:
    there = run(1, {"a": 1})
    there.serve("guest")
    there.until(5.0)
    for number in range(1, 10):
        there.die(f"a{number}")
        there.until(70.0)


def test_an_error_of_all_actors_ends_the_run_at_once(run: Any) -> None:
    there = run(2, {"a": 2})
    there.until(5.0)
    with pytest.raises(ConfigError, match="wrong"):
        there.die("a1", End("failed", ConfigError("wrong")))


def test_the_same_error_of_one_that_never_served_while_another_serves_is_its_nodes(run: Any) -> None:
    there = run(2, {"a": 1, "b": 1})
    there.until(5.0)
    there.serve("a1")
    there.die("a2", End("failed", ConfigError("no folder here")))
    assert "actor a2 failed" in there.events[-1]
    with pytest.raises(ConfigError):  # one that has served has seen that all was well
        there.die("a1", End("failed", ConfigError("wrong")))


def test_a_node_that_kills_actors_is_left_out_and_the_event_names_it(run: Any) -> None:
    there = run(2, {"bad": 1, "good": 2})
    there.until(5.0)
    (good,) = [each.name for each in there.ground.live() if each.at == "good"]
    there.serve(good)
    there.ground.room["good"] = 1
    killed: list[str] = []
    for _ in range(3):
        there.until(200.0)
        (bad,) = [each.name for each in there.ground.live() if each.at == "bad"]
        killed.append(bad)
        there.die(bad)
    assert any("host-bad has had 3 deaths of actors" in event for event in there.events)
    there.until(300.0)
    assert "waits for room" in there.actors.waits()
    there.ground.room["third"] = 1
    there.until(30.0)
    assert {each.at for each in there.ground.live()} == {"good", "third"}


def test_a_replacement_does_not_go_where_the_last_one_just_died_if_there_is_another_place(run: Any) -> None:
    there = run(1, {"a": 1, "b": 1})
    there.until(5.0)
    before = there.actor("a1").at
    there.die("a1")
    there.until(5.0)
    assert there.actor("a2").at not in ("", before)


def test_actors_are_spread_over_nodes_before_two_share_one(run: Any) -> None:
    there = run(4, {"a": 4, "b": 4})
    there.look()
    assert sorted(each.at for each in there.ground.live()) == ["a", "a", "b", "b"]


def resize(run: Run, wanted: int) -> list[str]:
    """Take the steps to another number; return the ids of those that are to leave."""
    asked: list[str] = []
    while run.actors.wanted != wanted:
        states = [ActorState(id=name, state=stage) for name, stage in run.stages.items()]
        asked += run.actors.resize(wanted, states)
        run.look()
    return asked


def test_more_actors_are_added_one_by_one_and_those_without_a_place_leave_first_without_being_asked(run: Any) -> None:
    there = run(1, {"a": 2})
    there.serve("a1")
    assert resize(there, 4) == []
    assert [each.name for each in there.ground.live()] == ["a1", "a2", "a3", "a4"]
    assert resize(there, 2) == []
    assert [each.name for each in there.ground.live()] == ["a1", "a2"]


def test_one_that_serves_is_asked_to_leave_under_the_id_it_has_now_and_is_forgotten_when_it_has_left(run: Any) -> None:
    there = run(2, {"a": 2})
    there.serve("a1", "a2")
    there.stages["a2"] = ActorStage.GONE
    there.stages["a2.2"] = ActorStage.SERVING
    assert resize(there, 1) == ["a2.2"]
    assert not there.actor("a2").removed and there.actors.record().actors["a2"].state == "leaving"
    there.die("a2", End("left"))
    assert there.actor("a2").removed and there.events[-1] == "actor a2 left: fewer are wanted"
    there.until(100.0)
    assert [each.name for each in there.ground.live()] == ["a1"]


def test_one_that_does_not_leave_is_ended_long_after_its_time(run: Any) -> None:
    there = run(2, {"a": 2})
    there.serve("a1", "a2")
    resize(there, 1)
    there.until(30.0, step=1.0)
    assert not there.actor("a2").removed
    there.until(10.0, step=1.0)
    assert there.actor("a2").removed and "a2 has not left for 35 s" in there.events[-1]


def test_each_process_has_an_id_of_its_own_and_those_that_have_ended_are_told(run: Any) -> None:
    lab = run(2, {"n1": 3})
    lab.look()
    lab.serve("a1", "a2")
    assert lab.actors.ended == []
    lab.die("a1")
    assert lab.actors.ended == [lab.actor("a1").boot]
    lab.until(START_S / 10)
    assert len({each.boot for each in lab.ground.started}) == 3 and "" not in [each.boot for each in lab.ground.started]
    lab.actors.resize(1, [])
    lab.die("a3")
    assert lab.actors.ended == [lab.actor("a1").boot, lab.actor("a3").boot]
