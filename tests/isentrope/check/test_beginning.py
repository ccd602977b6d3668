"""What a run is told before it begins with another's checkpoint."""

from pathlib import Path

import pytest
from rich.console import Console
from run_records import make_run_record

from isentrope import commands
from isentrope.check import beginning
from isentrope.config import load
from isentrope.errors import ConfigError, RunFolderError
from isentrope.learner import json_files
from isentrope.learner.beginning_record import Beginning
from isentrope.learner.intake.ledger import LedgerState
from isentrope.learner.training.checkpoint_store import CHECKPOINTS, CheckpointState, CheckpointStore
from isentrope.resolved import resolve
from isentrope.rollout.wire.control import Mode


@pytest.fixture
def other(run_file: Path, tmp_path: Path) -> Path:
    """The folder of a run by this run file, with a checkpoint of seven batches."""
    folder = tmp_path / "other"
    folder.mkdir()
    resolve(*load(run_file), folder).write(folder)
    json_files.write(folder, make_run_record())
    store = CheckpointStore(folder / CHECKPOINTS)
    store.claim()
    state = CheckpointState(config_digest="", data_digest="", mode=Mode.ASYNC, ledger=LedgerState(batches=7))
    store.finish(store.begin(7), state, {})
    return folder


def told(run_file: Path, *overrides: str) -> str:
    return beginning.examined(*load(run_file, ("learner.begin_from=other", *overrides)))


def test_it_says_what_the_run_begins_with(run_file: Path, other: Path) -> None:
    assert told(run_file) == ("the run begins with the weights and the optimizer of other after 7 batches (step-7-1)")


@pytest.mark.parametrize(
    ("override", "match"),
    [
        ("learner.zero_stage=3", "learner.zero_stage is 3, and .* was trained with 2"),
        ("model.dtype=bfloat16", "model.dtype is 'bfloat16', and .* was trained with 'float32'"),
        ("run.output_dir=other", "is the folder of this run itself"),
    ],
)
def test_what_cannot_go_on_is_refused(run_file: Path, other: Path, override: str, match: str) -> None:
    with pytest.raises(ConfigError, match=match) as refused:
        told(run_file, override)
    assert "learner.begin_from" in refused.value.where and refused.value.fix


def test_a_run_that_trained_nothing_or_has_no_checkpoint_is_refused(run_file: Path, other: Path) -> None:
    (other / CHECKPOINTS).rename(other / "aside")
    with pytest.raises(ConfigError, match="has no checkpoint"):
        told(run_file)
    json_files.write(other, make_run_record(only="rollout"))
    with pytest.raises(ConfigError, match="nothing was trained in"):
        told(run_file)


def test_settings_that_cannot_be_read_are_an_error(run_file: Path, other: Path) -> None:
    (other / "run.toml").write_text("[model")
    with pytest.raises(ConfigError, match=r"the settings of .* cannot be read"):
        told(run_file)


def test_what_is_no_run_is_refused(run_file: Path, tmp_path: Path) -> None:
    with pytest.raises(RunFolderError):
        told(run_file)
    with pytest.raises(RunFolderError, match="there is no"):
        commands.beginning(tmp_path / "other")


def test_a_run_that_has_begun_needs_the_other_no_more(run_file: Path, tmp_path: Path) -> None:
    record = Beginning(run=str(tmp_path / "other"), checkpoint="step-7-1", digest="")
    json_files.write(tmp_path / "runs" / "mine", record)
    assert told(run_file) == ""


def test_the_option_is_the_key(run_file: Path, other: Path) -> None:
    config, _ = load(run_file, commands.beginning(other))
    assert config.learner.begin_from == str(other)


def test_making_groups_alone_does_not_go_on_from_a_run(run_file: Path, other: Path) -> None:
    request = commands.Training(run_file, ["learner.retain=groups", *commands.beginning(other)], part="rollout")
    with pytest.raises(ConfigError, match="--only rollout trains nothing"):
        commands.train(request, Console(quiet=True))
