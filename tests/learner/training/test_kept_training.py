"""A run on the groups that another has kept: its own method, equal bits, and a start that goes on."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from toy_run import rows
from whole_run import Run

from isentrope.learner import json_files
from isentrope.learner.records import Outcome
from isentrope.learner.training.collectives import Collectives
from isentrope.learner.training.fault_points import VARIABLE
from isentrope.learner.training.kept_route import kept_from_the_beginning
from isentrope.learner.training.kept_training import train_kept
from isentrope.learner.training.replay import find_route, repeat

pytestmark = pytest.mark.slow

BATCHES = 6


@pytest.fixture(scope="module")
def run(new_run: Callable[..., Run]) -> Run:
    """The source: one rank, two updates per batch, and a controller that acts in every update."""
    objective = {"control": [{"kind": "entropy_step", "target": 50.0, "delta": 1e-4, "high": 1.0}]}
    made = new_run(ranks=1, mode="async", batches=BATCHES, retain="groups", objective=objective)
    return made.to_the_end()


@dataclass
class Switch:
    """A switch that is set after so many asks."""

    after: int = 1 << 30
    asked: int = 0

    def is_set(self) -> bool:
        self.asked += 1
        return self.asked > self.after


@dataclass
class Training:
    """A folder in which kept groups are trained."""

    source: Run
    folder: Path
    changes: dict[str, Any] = field(default_factory=dict)

    def start(self, batches: tuple[Path, ...] | None = None, after: int = 1 << 30) -> Outcome:
        """How it ends; `after` that many batches it is asked to."""
        self.folder.mkdir(exist_ok=True)
        job = self.source.job
        job = replace(
            job,
            spec=job.spec.model_copy(update={"output_dir": str(self.folder)}),
            config=job.config.model_copy(update={"retain": "none", **self.changes}),
            url="",
            trains=True,
        )
        train_kept(job, batches or kept_from_the_beginning(self.source.folder, BATCHES), Switch(after))
        outcome = json_files.read(self.folder, Outcome)
        assert outcome is not None
        return outcome

    def weights(self) -> dict[str, list[float]]:
        """Of the version it has left: there is one."""
        (folder,) = (self.folder / "weights").iterdir()
        shards = [load_file(path) for path in sorted(folder.glob("*.safetensors"))]
        return {name: value.tolist() for shard in shards for name, value in shard.items()}


@pytest.fixture
def training(
    run: Run, alone: Collectives, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Training]]:
    monkeypatch.setenv("LOCAL_RANK", "0")  # as a launcher sets it
    made: list[Training] = []

    def make(**learner: Any) -> Training:
        made.append(Training(run, tmp_path / f"training-{len(made)}", learner))
        return made[-1]

    yield make


def measured(row: dict[str, Any]) -> dict[str, Any]:
    """What the trained batch alone decides, and the state before it."""
    differs = ("time", "process", "version", "issued", "retired", "untrained", "objective")
    kept = {name: value for name, value in row.items() if name not in differs}
    return kept | {name: value for name, value in row["objective"].items() if name != "logp_gap_fresh"}


def test_with_the_runs_own_settings_its_weights_and_measures_come_out(
    run: Run, training: Callable[..., Training]
) -> None:
    own = training()
    outcome = own.start()
    assert (outcome.status, outcome.batches, outcome.trained) == ("finished", BATCHES, run.outcome["trained"])
    assert own.weights() == run.weights
    assert [measured(row) for row in rows(own.folder / "metrics.jsonl")] == [measured(row) for row in run.rows]


def test_another_method_has_other_weights_and_the_same_each_time(run: Run, training: Callable[..., Training]) -> None:
    changes = {"method": "gspo", "updates_per_batch": 4, "objective": {}}
    first, second = training(**changes), training(**changes)
    first.start()
    second.start()
    assert first.weights() == second.weights() != run.weights
    lines = rows(first.folder / "metrics.jsonl")
    assert [row["updates"] for row in lines] == [4] * BATCHES
    assert [row["lag_hist"] for row in lines] == [row["lag_hist"] for row in run.rows]
    assert [("logp_gap_fresh" in row["objective"]) for row in lines] == [True] + [False] * (BATCHES - 1)
    assert lines[-1]["objective"]["kl_rollout"] > lines[0]["objective"]["kl_rollout"]


CRITIC = {"method": "ppo", "objective": {"advantage": {"baseline": {"lambda_policy": 0.5}}}}


@pytest.mark.parametrize("changes", [{}, CRITIC], ids=["own", "critic"])
def test_one_that_was_stopped_goes_on_to_the_same_bits(
    changes: dict[str, Any], training: Callable[..., Training]
) -> None:
    whole, parted = training(**changes), training(**changes)
    whole.start()
    stopped = parted.start(after=3)
    assert (stopped.status, stopped.batches) == ("stopped", 3)
    outcome = parted.start()
    assert (outcome.status, outcome.batches, outcome.incarnation) == ("finished", BATCHES, 2)
    assert parted.weights() == whole.weights()
    assert [row["batch"] for row in rows(parted.folder / "metrics.jsonl")] == list(range(1, BATCHES + 1))


def test_it_can_be_replayed_if_it_keeps_its_groups_too(training: Callable[..., Training], tmp_path: Path) -> None:
    kept = training(retain="groups", epochs=2)
    kept.start()
    route = find_route(kept.folder, None, "")
    assert (route.first, route.last) == (1, BATCHES)
    (tmp_path / "work").mkdir()
    job = kept.source.job
    job = replace(
        job,
        spec=job.spec.model_copy(update={"output_dir": str(tmp_path / "work")}),
        config=job.config.model_copy(update=kept.changes),
        url="",
    )
    assert repeat(job, route) is None


@pytest.fixture(scope="module")
def made(new_run: Callable[..., Run]) -> Run:
    """Groups that were made and kept by two ranks, which were killed before their second checkpoint."""
    run = new_run(mode="async", batches=4, retain="groups")
    run.job = replace(run.job, trains=False)
    assert run.start(**{VARIABLE: "commit.before_manifest:4"}).wait() != 0
    return run.to_the_end()


def test_groups_are_made_and_kept_without_a_step(made: Run, toy_model: Path) -> None:
    assert made.accounts_for_every_group()
    assert [(row["batch"], row["updates"]) for row in made.rows] == [(number, 0) for number in range(1, 5)]
    assert made.weights == {name: value.tolist() for name, value in load_file(toy_model / "model.safetensors").items()}
    assert [path.name for path in (made.folder / "checkpoints").rglob("*.pt")] == []
    assert len(kept_from_the_beginning(made.folder, 4)) == 4


def test_what_was_made_so_is_trained_by_another_run(made: Run, training: Callable[..., Training]) -> None:
    other = training(batches=4, ranks=1)
    other.source = made
    other.start(kept_from_the_beginning(made.folder, 4))
    assert [row["updates"] for row in rows(other.folder / "metrics.jsonl")] == [2] * 4
    assert other.weights() != made.weights
