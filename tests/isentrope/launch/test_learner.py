"""How long the ranks wait for a model that is still being made; what ends them for good."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from ray.exceptions import LocalRayletDiedError, RayError, RayTaskError, WorkerCrashedError

from isentrope.errors import FencedError, IsentropeError, OutcomeError, UnreachableError
from isentrope.launch import learner
from isentrope.launch.learner import Learner, LearnerPlan, await_model, lead
from isentrope.launch.placement import NODE_ID, Bundle, Deaths, Node, matches
from isentrope.launch.rank_deaths import NODES, RankDeath
from isentrope.launch.surroundings import Surroundings
from isentrope.learner.config import LearnerConfig


def plan_for(model: Path | None) -> LearnerPlan:
    job: Any = SimpleNamespace(config=LearnerConfig().model_copy(update={"start_timeout_s": 0.0}))
    return LearnerPlan(
        job,
        gpu=False,
        log_folder=Path("logs"),
        model=model,
        surroundings=Surroundings(cpu=True),
        bundle=Bundle(0.01, 0),
        labels={},
        restart_limit=0,
    )


def test_a_model_that_is_never_made_ends_the_wait_and_names_the_key(tmp_path: Path) -> None:
    with pytest.raises(UnreachableError, match="was not made within") as raised:
        await_model(plan_for(tmp_path / "model.safetensors"))
    assert "raise learner.start_timeout_s" in raised.value.fix


def test_a_model_that_is_there_is_not_waited_for(tmp_path: Path) -> None:
    await_model(plan_for(None))
    await_model(plan_for(tmp_path))


@pytest.mark.parametrize("kind", [FencedError, OutcomeError])
def test_ranks_that_may_not_go_on_are_not_started_again(
    kind: type[IsentropeError], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fenced ones would take the run back, and the other learner would do the same; a run that has ended, and cannot
    say so on a full disk, would end again and again."""
    from ray.train import WorkerGroupError

    started: list[LearnerPlan] = []

    def fit() -> None:
        raise WorkerGroupError("rank 0 failed", {0: kind("fenced: learner 3 took over from 2")})

    def trainer(plan: LearnerPlan, selector: Mapping[str, str]) -> SimpleNamespace:
        started.append(plan)
        return SimpleNamespace(fit=fit)

    monkeypatch.setattr(learner, "_trainer", trainer)
    monkeypatch.setattr(learner.logs, "to_file", lambda path: None)
    job: Any = SimpleNamespace(spec=SimpleNamespace(output_dir=str(tmp_path)))
    surroundings: Any = SimpleNamespace(enter=lambda alone: None)
    plan = dataclasses.replace(plan_for(None), job=job, surroundings=surroundings, restart_limit=3)
    with pytest.raises(kind, match="learner 3 took over"):
        lead(plan, [{}])
    assert started == [plan]


class Ranks:
    """A learner's ranks, on nodes `a` and `b`, which end when a test says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path, restart_limit: int) -> None:
        self.allowed: list[list[set[str]]] = []
        self.death: RankDeath | None = None
        self.runs = True
        self.now = 1000.0
        self.cancelled: list[bool] = []
        self.nodes = [Node(name, f"host-{name}", 1.0, 0.0, {NODE_ID: name}) for name in "ab"]
        monkeypatch.setattr(learner, "live_nodes", lambda: self.nodes)
        monkeypatch.setattr(Learner, "_start", lambda _, selectors: self.start(selectors))
        monkeypatch.setattr(Learner, "_wait", lambda _, timeout_s: not self.runs)
        monkeypatch.setattr(Learner, "_death", lambda _: self.death)
        monkeypatch.setattr(Learner, "_cancel", lambda _: self.cancelled.append(True))
        monkeypatch.setattr(learner.time, "monotonic", lambda: self.now)
        config = LearnerConfig(ranks=2, start_timeout_s=60.0)
        job: Any = SimpleNamespace(spec=SimpleNamespace(output_dir=str(folder)), config=config)
        plan = dataclasses.replace(plan_for(None), job=job, restart_limit=restart_limit, log_folder=folder)
        self.deaths = Deaths(2)
        self.learner = Learner(plan, self.deaths)

    def start(self, selectors: Sequence[Mapping[str, str]]) -> None:
        """Note on which nodes they may be."""
        self.runs = True
        self.allowed.append([{node.id for node in self.nodes if matches(node.labels, each)} for each in selectors])

    def die(self, *nodes: str) -> list[str]:
        """End them, and return what the command says."""
        self.runs, self.death = False, RankDeath("WorkerGroupError: killed", nodes)
        return list(self.learner.tend())


def test_a_node_on_which_ranks_die_is_left_out_for_ranks_and_actors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ranks = Ranks(monkeypatch, tmp_path, restart_limit=3)
    assert list(ranks.learner.tend()) == []
    (first,) = ranks.die("a")
    assert first == "a rank has died on host-a, and all start again: death 1 of 3 without a checkpoint or dead letter"
    notice, _ = ranks.die("a")
    assert notice == "host-a has had 2 deaths of actors or ranks: others are placed elsewhere"
    assert ranks.allowed == [[{"a", "b"}], [{"b"}, {"a", "b"}], [{"b"}]]
    assert ranks.deaths.quarantined(ranks.now) == {"a"}
    assert not ranks.learner.has_ended


def test_deaths_of_actors_keep_ranks_away_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ranks = Ranks(monkeypatch, tmp_path, restart_limit=3)
    for _ in range(2):
        ranks.deaths.note("b", ranks.now)
    ranks.die()
    assert ranks.allowed[-1] == [{"a"}]


def test_the_last_death_is_the_end_and_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ranks = Ranks(monkeypatch, tmp_path, restart_limit=0)
    assert ranks.die("a") == []
    assert ranks.learner.has_ended and len(ranks.allowed) == 1


def test_ranks_that_have_returned_are_not_started_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ranks = Ranks(monkeypatch, tmp_path, restart_limit=3)
    ranks.runs = False
    assert list(ranks.learner.tend()) == [] and ranks.learner.has_ended and len(ranks.allowed) == 1


def test_ranks_that_do_not_come_up_again_are_named_and_started_once_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ranks = Ranks(monkeypatch, tmp_path, restart_limit=2)
    ranks.learner.opened(1)
    ranks.now += 1000
    assert list(ranks.learner.tend()) == [], "ranks that have opened the run may take their time"
    ranks.die("a")
    (tmp_path / NODES).write_text('["a", "b"]')
    (tmp_path / "learner-0.log").write_text("up\n")
    ranks.now += 60
    ranks.learner.opened(1)
    assert list(ranks.learner.tend()) == []
    ranks.now += 1
    (said,) = ranks.learner.tend()
    late = "rank 1 (host-b) has not come up for 60 s"
    assert said == f"{late}, and all start again: death 2 of 2 without a checkpoint or dead letter"
    assert ranks.cancelled == [True] and not ranks.learner.has_ended
    assert ranks.learner.starts_again
    ranks.learner.opened(2)
    assert not ranks.learner.starts_again
    ranks.now += 1000
    assert list(ranks.learner.tend()) == []


def test_ranks_that_never_come_up_again_end_the_run_by_the_code_of_a_passed_deadline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ranks = Ranks(monkeypatch, tmp_path, restart_limit=1)
    ranks.learner.opened(1)
    ranks.die("a")
    ranks.now += 61
    assert list(ranks.learner.tend()) == [] and ranks.learner.has_ended and ranks.cancelled == [True]
    failure = ranks.learner.failure()
    assert isinstance(failure, UnreachableError) and failure.exit_code == 69
    assert "no rank has got a process for 60 s" in failure.what and "learner.start_timeout_s" in failure.fix


@pytest.mark.parametrize(
    ("error", "is_death"),
    [(WorkerCrashedError(), True), (LocalRayletDiedError(), True), (RayTaskError("lead", "", FencedError("f")), False)],
)
def test_the_end_of_the_task_that_leads_the_ranks_is_a_death_of_ranks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: RayError, is_death: bool
) -> None:
    whole = Learner._death
    ranks = Ranks(monkeypatch, tmp_path, restart_limit=1)

    def get(future: object) -> None:
        raise error

    monkeypatch.setattr(ray, "get", get)
    monkeypatch.setattr(Learner, "_death", whole)
    ranks.runs = False
    said = list(ranks.learner.tend())
    assert [line.startswith("a rank has died, and all start again") for line in said] == [True] * is_death
    assert ranks.learner.has_ended is not is_death
