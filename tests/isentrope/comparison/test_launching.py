"""The runs of a comparison: their order, what a second command does again, and what is refused before the first."""

import io
from collections.abc import Sequence
from pathlib import Path

import pytest
from rich.console import Console
from run_records import make_outcome, make_row

from isentrope.comparison.launching import Ended, Prepared, Request, parse_methods, prepare, train_all
from isentrope.comparison.place import claim
from isentrope.errors import ConfigError, RunFolderError
from isentrope.launch.plan import ClaimedRun, make_record
from isentrope.learner import json_files
from isentrope.learner.records import BatchRow, Outcome
from isentrope.learner.training.journal import Journal
from isentrope.progress import Progress
from isentrope.rollout.config import RunConfig
from isentrope.runfolder import read_record

METHODS = ("grpo", "dapo+top_entropy")


class Drives:
    """Stands for engines and ranks, which have tests of their own: a run trains its batches, or is stopped."""

    def __init__(self, stopped_at: int | None = None) -> None:
        self.runs: list[tuple[str | Sequence[str], RunConfig]] = []
        self._stopped_at = stopped_at

    def __call__(self, run: ClaimedRun, progress: Progress) -> Outcome:
        config = run.checked.config
        self.runs.append((config.learner.method, config.run))
        run.folder.begin(make_record(run, socket="", redis_version=""))
        stopped = len(self.runs) == self._stopped_at
        for batch in range(1, 2 if stopped else config.learner.batches + 1):
            Journal(run.folder.path, BatchRow).append(make_row(batch))
            progress.batch(make_row(batch), config.learner.batches)
        outcome = make_outcome(status="stopped" if stopped else "finished", batches=config.learner.batches)
        json_files.write(run.folder.path, outcome)
        return outcome


def _prepared(run_file: Path, seeds: int = 1) -> Prepared:
    return prepare(Request(run_file, METHODS, seeds))


def test_runs_differ_in_method_and_seed_alone(run_file: Path) -> None:
    prepared, drives = _prepared(run_file, seeds=2), Drives()
    claim(prepared.setting.folder, prepared.plan)
    told = io.StringIO()
    assert train_all(prepared, drives, Console(file=told, width=200)) is Ended.FINISHED
    assert [(method, run.seed) for method, run in drives.runs] == [
        (["grpo"], 0),
        (["dapo", "top_entropy"], 0),
        (["grpo"], 1),
        (["dapo", "top_entropy"], 1),
    ]
    assert "dapo+top_entropy, seed 1: batch 2/2" in told.getvalue()
    digests = {read_record(folder).data_digest for folder in prepared.folders}
    assert len(digests) == 1 and len({run.name for _, run in drives.runs}) == 4


def test_a_finished_run_is_not_repeated_and_a_begun_one_goes_on(run_file: Path) -> None:
    prepared, again, told = _prepared(run_file), Drives(), io.StringIO()
    assert train_all(prepared, Drives(stopped_at=2), Console(quiet=True)) is Ended.STOPPED
    assert prepared.left
    assert train_all(prepared, again, Console(file=told, width=200)) is Ended.FINISHED
    assert [method for method, _ in again.runs] == [["dapo", "top_entropy"]]
    assert "grpo, seed 0: finished before" in told.getvalue()


def test_an_error_ends_the_command_and_the_next_goes_on(run_file: Path) -> None:
    def fails(run: ClaimedRun, progress: Progress) -> Outcome:
        raise ConfigError("no actor came")

    prepared = _prepared(run_file)
    with pytest.raises(ConfigError, match="no actor came"):
        train_all(prepared, fails, Console(quiet=True))
    assert train_all(prepared, Drives(), Console(quiet=True)) is Ended.FINISHED


def test_an_interrupt_between_two_runs_is_heeded_before_the_next(run_file: Path) -> None:
    drives = Drives()
    assert train_all(_prepared(run_file), drives, Console(quiet=True), lambda: True) is Ended.STOPPED
    assert len(drives.runs) == 1


def test_other_settings_in_the_same_folder_are_refused(run_file: Path) -> None:
    first = _prepared(run_file)
    claim(first.setting.folder, first.plan)
    changed = prepare(Request(run_file, METHODS, 1, ["learner.learning_rate=1e-3"]))
    with pytest.raises(RunFolderError, match="settings of"):
        claim(changed.setting.folder, changed.plan)


@pytest.mark.parametrize(
    ("methods", "message"),
    [(("grpo",), "one method"), (("grpo", "grpo"), "given twice"), (("grpo", "dapo+"), "names no method")],
)
def test_methods_that_cannot_be_compared_are_refused(methods: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_methods(methods)


@pytest.mark.parametrize("seeds", [0, -1, 1001])
def test_a_wrong_number_of_seeds_is_refused(run_file: Path, seeds: int) -> None:
    with pytest.raises(ConfigError, match=f"--seeds {seeds}"):
        _prepared(run_file, seeds=seeds)


@pytest.mark.parametrize("override", ["learner.method=dapo", "run.output_dir=out"])
def test_a_key_that_the_command_sets_is_refused(run_file: Path, override: str) -> None:
    with pytest.raises(ConfigError, match="would be the same for all runs"):
        prepare(Request(run_file, ("grpo", "dapo"), 1, [override]))


def test_a_mistake_of_all_runs_is_said_once(run_file: Path) -> None:
    run_file.with_name("train.jsonl").unlink()
    with pytest.raises(Exception, match=r"train\.jsonl") as told:
        _prepared(run_file)
    assert not isinstance(told.value, ExceptionGroup)
