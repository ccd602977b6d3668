"""A run that begins with another's checkpoint has its weights, moments and count of updates, to the bit."""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from toy_run import make_job
from transformers import AutoConfig, AutoModelForCausalLM
from whole_run import Run

from isentrope.errors import ConfigError, StorageError
from isentrope.learner import json_files
from isentrope.learner.beginning_record import Beginning
from isentrope.learner.intake.ledger import LedgerState
from isentrope.learner.training.beginning import require_same_shapes, shapes_in, start_from_another
from isentrope.learner.training.checkpoint_store import CRITIC, CheckpointState, FileFacts, verify
from isentrope.learner.training.collectives import Collectives
from isentrope.learner.training.deepspeed_files import first_difference
from isentrope.learner.training.replay import find_route, repeat
from isentrope.rollout.config import SamplingConfig
from isentrope.rollout.wire.control import Mode

pytestmark = pytest.mark.slow

NEW = CheckpointState(config_digest="", data_digest="", mode=Mode.ASYNC, ledger=LedgerState())


class Reader:
    """What verifies files, without ranks."""

    def check(self, folder: Path, files: Mapping[str, FileFacts]) -> str:
        return verify(folder, files, sorted(files))


@pytest.fixture(scope="module")
def first(new_run: Callable[..., Run]) -> Run:
    run = new_run(ranks=1, method="ppo", objective={"critic": {"warmup_batches": 0}}, batches=4, checkpoint_every=2)
    return run.to_the_end()


@pytest.fixture(scope="module")
def untouched(first: Run) -> Iterator[None]:
    """The folder of the first run stays as it is, whatever begins with it."""
    before = {path: path.stat().st_mtime_ns for path in first.folder.rglob("*")}
    yield
    assert {path: path.stat().st_mtime_ns for path in first.folder.rglob("*")} == before


def longer(run: Run) -> Run:
    """Let its responses be longer than those of the first run."""
    sampling = SamplingConfig(group_size=4, max_new_tokens=12)
    run.job = replace(run.job, spec=run.job.spec.model_copy(update={"sampling": sampling}))
    return run


@pytest.fixture(scope="module")
def second(new_run: Callable[..., Run], first: Run, untouched: None) -> Run:
    """The next stage of the first run, with longer responses."""
    own = {"method": "ppo", "objective": {"critic": {"warmup_batches": 0}}, "begin_from": str(first.folder)}
    run = new_run(ranks=1, batches=2, checkpoint_every=1, keep_checkpoints=9, retain="groups", **own)
    return longer(run).to_the_end()


@pytest.fixture(scope="module")
def without_critic(new_run: Callable[..., Run], first: Run, untouched: None) -> Run:
    """By more ranks, and a method that has no critic."""
    own = {"method": "dr_grpo", "begin_from": str(first.folder)}
    return new_run(ranks=2, batches=1, checkpoint_every=1, keep_checkpoints=9, **own).to_the_end()


def checkpoint(run: Run, name: str) -> Path:
    return run.folder / "checkpoints" / name


def differences(one: Path, other: Path) -> list[str]:
    """Return what differs in the files of two checkpoints."""
    files = sorted(path.relative_to(one) for path in one.rglob("*.pt"))
    assert files and files == sorted(path.relative_to(other) for path in other.rglob("*.pt"))
    ours, theirs = ([torch.load(folder / file, weights_only=True) for file in files] for folder in (one, other))
    pairs = zip(files, ours, theirs, strict=True)
    return [found for file, our, their in pairs if (found := first_difference(our, their, str(file)))]


def test_it_begins_with_weights_moments_and_updates_of_policy_and_critic(first: Run, second: Run) -> None:
    assert differences(checkpoint(first, "step-4-1"), checkpoint(second, "step-0-1")) == []
    assert (checkpoint(second, "step-0-1") / CRITIC).is_dir()
    state = json.loads((checkpoint(second, "step-0-1") / "state.json").read_text())
    assert state["ledger"]["batches"] == 0


def test_it_trains_its_own_batches_and_longer_responses(second: Run) -> None:
    assert [row["batch"] for row in second.rows] == [1, 2]
    assert second.accounts_for_every_group()
    assert differences(checkpoint(second, "step-0-1"), checkpoint(second, "step-2-1"))


def test_its_steps_come_out_again(
    second: Run, alone: Collectives, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCAL_RANK", "0")  # as a launcher sets it
    job = replace(second.job, spec=second.job.spec.model_copy(update={"output_dir": str(tmp_path)}), url="")
    assert repeat(job, find_route(second.folder, None, "")) is None


def weights(folder: Path) -> dict[str, list[float]]:
    """Return those of a checkpoint, from the file of its first rank."""
    state = torch.load(min(folder.glob("*model_states.pt")), weights_only=True)["module"]
    return {name: value.tolist() for name, value in state.items()}


def test_another_number_of_ranks_takes_it_over_without_a_critic(first: Run, without_critic: Run) -> None:
    begun = checkpoint(without_critic, "step-0-1")
    assert weights(begun) == weights(checkpoint(first, "step-4-1")) and not (begun / CRITIC).exists()
    assert len(without_critic.rows) == 1 and without_critic.accounts_for_every_group()
    assert not (without_critic.folder / "begun" / "converted").exists()


def test_a_critic_that_was_not_there_is_new(new_run: Callable[..., Run], without_critic: Run) -> None:
    run = new_run(ranks=2, method="ppo", batches=1, begin_from=str(without_critic.folder)).to_the_end()
    assert "had no critic" in run.log.read_text() and len(run.rows) == 1


def test_another_architecture_is_refused_with_the_first_parameter_that_differs(
    new_run: Callable[..., Run], first: Run, toy_model: Path, tmp_path: Path
) -> None:
    facts = AutoConfig.from_pretrained(toy_model)
    facts.intermediate_size *= 2
    shutil.copytree(toy_model, tmp_path / "wider")
    AutoModelForCausalLM.from_config(facts, dtype=torch.float32).save_pretrained(tmp_path / "wider")
    run = new_run(ranks=1, batches=1, begin_from=str(first.folder))
    run.job = replace(run.job, spec=run.job.spec.model_copy(update={"model_dir": str(tmp_path / "wider")}))
    assert run.start().wait() == 0
    assert run.outcome["exit_code"] == ConfigError.exit_code and "down_proj" in run.outcome["what"]
    assert not list(run.folder.glob("checkpoints/step-*"))


def test_shapes_are_read_without_values_and_compared_by_name(first: Run) -> None:
    shapes = shapes_in(checkpoint(first, "step-4-1"))
    same = torch.nn.ParameterDict({name.replace(".", "_"): torch.empty(shape) for name, shape in shapes.items()})
    with pytest.raises(ConfigError, match="parameters of the run"):
        require_same_shapes(same, checkpoint(first, "step-4-1"))


@pytest.fixture
def copied(first: Run, tmp_path: Path) -> Path:
    """The first run, which a test may change."""
    shutil.copytree(first.folder, tmp_path / "other")
    return tmp_path / "other"


@pytest.fixture
def begin(copied: Path, toy_model: Path, tmp_path: Path) -> Callable[[], str]:
    """Starts a run that begins with the copy, and tells with which of its checkpoints."""
    own = tmp_path / "own"
    own.mkdir()
    job = make_job("own", "", toy_model, own, begin_from="../other")

    def start() -> str:
        begun = start_from_another(job, Reader(), NEW)
        assert begun.folder is not None and begun.is_new and begun.folder.is_symlink()
        found = json_files.read(own, Beginning)
        assert found is not None and begun.folder.resolve() == copied / "checkpoints" / found.checkpoint
        return found.checkpoint

    return start


def test_another_start_takes_the_same_although_the_other_run_has_gone_on(
    copied: Path, begin: Callable[[], str]
) -> None:
    newest = copied / "checkpoints" / "step-4-1"
    newest.rename(newest.with_name("aside"))
    (copied / "checkpoints" / "latest.1").write_text("step-2-1\n")
    assert begin() == "step-2-1"
    newest.with_name("aside").rename(newest)
    (copied / "checkpoints" / "latest.1").write_text("step-4-1\n")
    assert begin() == "step-2-1"


def test_a_damaged_checkpoint_is_left_for_the_one_before_it(copied: Path, begin: Callable[[], str]) -> None:
    (shard,) = (copied / "checkpoints" / "step-4-1").glob("*model_states.pt")
    shard.write_bytes(shard.read_bytes()[:-1])
    assert begin() == "step-2-1"


@pytest.mark.parametrize(
    ("spoil", "match"),
    [
        (lambda folder: shutil.rmtree(folder), "not there any more"),
        (lambda folder: (folder / "manifest.json").write_text('{"files": {}}'), "not what it was"),
        (lambda folder: (folder / "state.json").unlink(), "is damaged"),
    ],
    ids=["gone", "another", "damaged"],
)
def test_a_checkpoint_that_was_taken_and_is_lost_is_not_replaced_by_another(
    copied: Path, begin: Callable[[], str], spoil: Callable[[Path], None], match: str
) -> None:
    spoil(copied / "checkpoints" / begin())
    with pytest.raises(StorageError, match=match):
        begin()


def test_a_run_without_a_checkpoint_is_refused(copied: Path, begin: Callable[[], str]) -> None:
    shutil.rmtree(copied / "checkpoints")
    (copied / "checkpoints").mkdir()
    with pytest.raises(ConfigError, match="has no checkpoint"):
        begin()
