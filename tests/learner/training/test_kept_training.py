"""A run on the groups that another has kept: its own method, equal bits, and a start that goes on."""

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from toy_run import rows
from whole_run import Run

from isentrope.learner import json_files
from isentrope.learner.intake.buffer import ReadyBatch
from isentrope.learner.records import Outcome
from isentrope.learner.training.collectives import Collectives
from isentrope.learner.training.fault_points import VARIABLE
from isentrope.learner.training.group_store import encode, read_batch, read_record
from isentrope.learner.training.kept_route import kept_from_the_beginning
from isentrope.learner.training.kept_training import train_kept
from isentrope.learner.training.replay import Parting, Route, find_route, repeat
from isentrope.rollout.config import MAX_REWARD

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


def repeated(own: Training, route: Route, work: Path) -> Parting | None:
    """Where its steps part, made again in a folder of their own."""
    work.mkdir()
    job = own.source.job
    spec = job.spec.model_copy(update={"output_dir": str(work)})
    return repeat(replace(job, spec=spec, config=job.config.model_copy(update=own.changes), url=""), route)


def test_it_can_be_replayed_if_it_keeps_its_groups_too(training: Callable[..., Training], tmp_path: Path) -> None:
    kept = training(retain="groups", epochs=2)
    kept.start()
    route = find_route(kept.folder, None, "")
    assert (route.first, route.last) == (1, BATCHES)
    assert repeated(kept, route, tmp_path / "work") is None


def unbounded(run: Run, folder: Path, numbers: Collection[int]) -> tuple[Path, ...]:
    """The kept batches, of which some have rewards as large as a reward may be: without a scale, no gradient of theirs
    is finite."""
    batches = []
    for path in kept_from_the_beginning(run.folder, BATCHES):
        kept = read_batch(path)
        groups = list(kept.groups)
        if kept.record.plan.batch in numbers:
            answers = [(replace(group.responses[0], reward=MAX_REWARD), *group.responses[1:]) for group in groups]
            groups = [replace(group, responses=own) for group, own in zip(groups, answers, strict=True)]
        batches.append(folder / path.name)
        batch = ReadyBatch(kept.record.plan, tuple(groups), replayed=False)
        batches[-1].write_bytes(encode(batch, kept.record.circumstances))
    return tuple(batches)


@pytest.fixture
def without_bounds(run: Run, tmp_path: Path) -> tuple[Path, ...]:
    return unbounded(run, tmp_path, {3})


UNSCALED = {"method": "dr_grpo", "objective": {}}


def test_a_batch_without_a_finite_update_is_skipped_and_replayed_as_skipped(
    training: Callable[..., Training], without_bounds: tuple[Path, ...], tmp_path: Path
) -> None:
    own = training(retain="groups", checkpoint_every=3, keep_checkpoints=9, **UNSCALED)
    outcome = own.start(without_bounds)
    assert (outcome.status, outcome.batches, outcome.retired) == ("finished", BATCHES, {"nonfinite": 4})
    assert (outcome.trained, outcome.issued) == (4 * (BATCHES - 1), 4 * BATCHES)
    lines = rows(own.folder / "metrics.jsonl")
    assert [row["batch"] for row in lines] == [1, 2, 4, 5, 6]
    assert [row["untrained"]["groups"] for row in lines] == [{}, {}, {"nonfinite": 4}, {}, {}]
    route = find_route(own.folder, None, "")
    assert [read_record(path).skipped for path in route.batches] == [False, False, True, False, False, False]
    assert list(route.checkpoints) == [3, 6]
    assert repeated(own, route, tmp_path / "work") is None


def test_a_skipped_batch_changes_nothing_and_one_that_was_stopped_behind_it_goes_on(
    training: Callable[..., Training], without_bounds: tuple[Path, ...]
) -> None:
    whole, parted, before = training(**UNSCALED), training(**UNSCALED), training(batches=2, **UNSCALED)
    whole.start(without_bounds)
    before.start(without_bounds)
    stopped = parted.start(without_bounds, after=3)
    assert (stopped.status, stopped.batches, stopped.retired) == ("stopped", 3, {"nonfinite": 4})
    assert parted.weights() == before.weights()
    outcome = parted.start(without_bounds)
    assert (outcome.status, outcome.batches, outcome.retired) == ("finished", BATCHES, {"nonfinite": 4})
    assert parted.weights() == whole.weights()


def test_a_batch_that_is_skipped_in_the_run_or_in_the_replay_alone_is_named(
    training: Callable[..., Training], without_bounds: tuple[Path, ...], tmp_path: Path
) -> None:
    own = training(retain="groups", **UNSCALED)
    own.start(without_bounds)
    for number, skipped, says in ((2, True, "had no finite update, and has one"), (3, False, "has no finite update")):
        path = own.folder / "groups" / f"{number}-1"
        before, kept = path.read_bytes(), read_batch(path)
        batch = ReadyBatch(kept.record.plan, kept.groups, replayed=False)
        path.write_bytes(encode(batch, kept.record.circumstances, skipped=skipped))
        parting = repeated(own, find_route(own.folder, None, ""), tmp_path / f"work-{number}")
        assert parting is not None and parting.batch == number and says in parting.what
        path.write_bytes(before)


def test_batches_in_a_row_without_a_finite_update_end_it(
    run: Run, training: Callable[..., Training], tmp_path: Path
) -> None:
    own = training(**UNSCALED)
    outcome = own.start(unbounded(run, tmp_path, {1, 3, 4, 5}))
    assert (outcome.status, outcome.exit_code, outcome.batches) == ("error", 70, 5)
    assert outcome.what == "3 batches in a row had no update with finite loss and gradient"
    assert outcome.retired == {"nonfinite": 16}


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
