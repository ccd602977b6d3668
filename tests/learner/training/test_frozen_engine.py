"""A network that is not trained gives all else that a run leaves; one rank, without a group of processes."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from kept_batches import AROUND, Disk, make_batch
from safetensors.torch import load_file
from toy_run import make_job, rows

from isentrope.learner import json_files
from isentrope.learner.records import Outcome
from isentrope.learner.training import main
from isentrope.learner.training.group_store import GroupKeeper, read_record
from isentrope.learner.training.job import LearnerJob
from isentrope.learner.training.kept_training import train_kept

BATCHES = 3


class OneRank:
    """The collectives of a rank without others."""

    rank, size, device = 0, 1, torch.device("cpu")

    def __init__(self, timeout_s: float) -> None:
        self.background = self

    def gather(self, value: Any) -> list[Any]:
        return [json.loads(json.dumps(value))]

    def broadcast(self, message: bytes = b"") -> bytes:
        return message

    def deal(self, part_of: Callable[[int], bytes]) -> None:
        pass


class Switch:
    """A switch that is set after so many asks."""

    def __init__(self, after: int) -> None:
        self._left = after

    def is_set(self) -> bool:
        self._left -= 1
        return self._left < 0


@pytest.fixture
def one_rank(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(main, "Collectives", OneRank)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def batches(tmp_path: Path) -> tuple[Path, ...]:
    """Kept batches of another run."""
    source, chain = tmp_path / "source", ""
    source.mkdir()
    for number in range(1, BATCHES + 1):
        batch = make_batch(number, chain)
        GroupKeeper(source, 1, Disk()).keep(batch, AROUND)
        chain = batch.record.after
    return tuple(source / "groups" / f"{number}-1" for number in range(1, BATCHES + 1))


@pytest.fixture
def job(one_rank: None, toy_model: Path, tmp_path: Path) -> LearnerJob:
    folder = tmp_path / "run"
    folder.mkdir()
    learner = {"ranks": 1, "batches": BATCHES, "prompts_per_batch": 2, "updates_per_batch": 1, "retain": "groups"}
    return replace(make_job("frozen", "", toy_model, folder, **learner), trains=False)


def end(job: LearnerJob, batches: tuple[Path, ...], after: int = BATCHES) -> Outcome:
    """How a start ends that is asked to end after so many batches."""
    train_kept(job, batches, Switch(after))
    outcome = json_files.read(Path(job.spec.output_dir), Outcome)
    assert outcome is not None
    return outcome


def test_a_stopped_run_goes_on_and_its_weights_are_the_models(
    job: LearnerJob, batches: tuple[Path, ...], toy_model: Path
) -> None:
    folder = Path(job.spec.output_dir)
    stopped = end(job, batches, after=2)
    assert (stopped.status, stopped.batches, stopped.trained, stopped.incarnation) == ("stopped", 2, 4, 1)
    finished = end(job, batches)
    assert (finished.status, finished.batches, finished.trained, finished.incarnation) == ("finished", 3, 6, 2)
    lines = rows(folder / "metrics.jsonl")
    assert [(line["batch"], line["updates"], line["lag_max"]) for line in lines] == [(1, 0, 0), (2, 0, 1), (3, 0, 2)]
    assert sorted(path.name for path in (folder / "groups").iterdir()) == ["1-1", "2-1", "3-2"]
    assert read_record(folder / "groups" / "3-2").plan == read_record(batches[2]).plan
    (shard,) = (folder / "weights").rglob("*.safetensors")
    written, model = load_file(shard), load_file(toy_model / "model.safetensors")
    assert written.keys() == model.keys() and all(torch.equal(value, model[name]) for name, value in written.items())
    assert list((folder / "checkpoints").rglob("*.pt")) == []


def test_a_critic_that_is_not_trained_gives_0(job: LearnerJob, batches: tuple[Path, ...]) -> None:
    job = replace(job, config=job.config.model_copy(update={"method": "ppo"}))
    assert end(job, batches).status == "finished"
    lines = [line["objective"] for line in rows(Path(job.spec.output_dir) / "metrics.jsonl")]
    assert [(line["value_mean"], "loss_value" in line) for line in lines] == [(0.0, False)] * BATCHES


def test_it_goes_on_with_the_groups_that_it_began_with_alone(job: LearnerJob, batches: tuple[Path, ...]) -> None:
    end(job, batches, after=2)
    for others in (batches[:1], (batches[0], batches[2], batches[1])):
        outcome = end(job, others)
        assert (outcome.status, outcome.exit_code, outcome.batches) == ("error", 73, 0)
        assert "checkpoint of batch 2 was not trained from the groups in" in outcome.what
    assert end(job, batches).status == "finished"


def test_tokens_that_are_not_the_models_and_damage_end_it(job: LearnerJob, batches: tuple[Path, ...]) -> None:
    foreign = end(replace(job, spec=job.spec.model_copy(update={"vocab_size": 2})), batches)
    assert (foreign.exit_code, foreign.where) == (64, "model.path")
    assert foreign.what.endswith("of batch 1 is not of this model, which has 2")
    batches[1].write_bytes(batches[1].read_bytes()[:-1])
    damaged = end(job, batches)
    assert (damaged.exit_code, damaged.batches) == (74, 1)
    assert "kept payload of group 21 of batch 2 is damaged" in damaged.what
