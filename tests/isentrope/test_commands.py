"""Whatever ends a run, its folder says so and holds a report; the exit code is that of the end."""

import dataclasses
import io
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console
from run_records import make_outcome, make_row, make_run_record
from tiny_model import publish

from isentrope import commands, evaluation, report
from isentrope.check.findings import Checked
from isentrope.check.model import Model
from isentrope.config import load
from isentrope.errors import DataError, RewardError, UnreachableError
from isentrope.launch import driver
from isentrope.launch.plan import ClaimedRun
from isentrope.learner import json_files
from isentrope.learner.measures import FunctionReward
from isentrope.learner.records import BatchRow, EvalRow, Outcome, Summary
from isentrope.learner.training.journal import Journal
from isentrope.progress import Progress
from isentrope.rollout.wire.types import EvalOrder
from isentrope.runfolder import RunFolder


@pytest.fixture
def run(run_file: Path) -> Iterator[ClaimedRun]:
    config, file = load(run_file)
    checked = Checked(config, file, "c", "d", Model(str(run_file.parent / "model"), 46, 128), [])
    with RunFolder.claim(run_file.parent / "out", config_digest="c", data_digest="d") as folder:
        yield ClaimedRun(checked, folder, time.time())


def _end(run: ClaimedRun, monkeypatch: pytest.MonkeyPatch, ending: Outcome | Exception, *, begins: bool = True) -> str:
    """Return what a run prints that trains one batch and ends so; raise what it raises."""

    def drive(run: ClaimedRun, progress: Progress) -> Outcome:
        if begins:
            run.folder.begin(make_run_record())
            Journal(run.folder.path, BatchRow).append(make_row(1))
        if isinstance(ending, Exception):
            raise ending
        return ending

    monkeypatch.setattr(driver, "drive", drive)
    out = io.StringIO()
    try:
        assert commands._run(run, Console(file=out, width=200)) == 0
    finally:
        (run.folder.path / "printed").write_text(out.getvalue())
    return out.getvalue()


@pytest.mark.parametrize(("status", "code"), [("stopped", 80), ("finished", 0)])
def test_a_scheduler_is_told_whether_batches_are_left(
    run: ClaimedRun, monkeypatch: pytest.MonkeyPatch, status: str, code: int
) -> None:
    monkeypatch.setattr(driver, "drive", lambda run, progress: make_outcome(status=status))
    assert commands._run(dataclasses.replace(run, stopped_code=80), Console(file=io.StringIO())) == code


def test_a_run_that_ends_by_an_error_of_its_learner_has_a_report(
    run: ClaimedRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DataError, match="reward broke"):
        _end(run, monkeypatch, make_outcome(batches=1).ended_by(RewardError("reward broke")))
    _require_report(run.folder.path)


@pytest.mark.parametrize("error", [UnreachableError("no learner came"), ZeroDivisionError("a bug")])
def test_a_run_that_ends_by_another_error_has_a_report_that_says_so(
    run: ClaimedRun, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    with pytest.raises(type(error)):
        _end(run, monkeypatch, error)
    _require_report(run.folder.path)
    assert str(error) in (run.folder.path / report.REPORT).read_text()
    outcome = json_files.read(run.folder.path, Outcome)
    assert outcome is not None and outcome.status == "error" and str(error) in outcome.what


def test_a_run_that_never_began_leaves_what_an_earlier_command_left(
    run: ClaimedRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = make_outcome(status="stopped", batches=3)
    json_files.write(run.folder.path, before)
    with pytest.raises(UnreachableError):
        _end(run, monkeypatch, UnreachableError("no broker"), begins=False)
    assert json_files.read(run.folder.path, Outcome) == before
    assert not (run.folder.path / report.REPORT).exists()


def test_a_report_that_cannot_be_written_changes_nothing_about_the_end(
    run: ClaimedRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(folder: Path) -> Path:
        raise RuntimeError("no fonts")

    monkeypatch.setattr(report, "write", fails)
    assert "no report: no fonts" in _end(run, monkeypatch, make_outcome(status="finished", batches=1))
    with pytest.raises(UnreachableError, match="no learner came"):
        _end(run, monkeypatch, UnreachableError("no learner came"))


@pytest.mark.parametrize("status", ["finished", "stopped"])
def test_a_run_that_has_trained_leaves_its_newest_version_as_a_model(
    run: ClaimedRun, monkeypatch: pytest.MonkeyPatch, status: str
) -> None:
    publish(run.folder.path, 1)
    newest = publish(run.folder.path, 2).manifest
    printed = _end(run, monkeypatch, make_outcome(status=status, batches=2))
    assert f"model: {run.folder.path / 'final'}, of batch 2" in printed
    weights = Path(newest.folder, newest.shards[0].file).read_bytes()
    assert (run.folder.path / "final" / "model.safetensors").read_bytes() == weights


def test_a_model_that_cannot_be_written_changes_nothing_about_the_end(
    run: ClaimedRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    printed = _end(run, monkeypatch, make_outcome(status="finished", batches=1))
    assert "no final: no version of the weights is left" in printed and "report: " in printed


class _Prepared:
    """An evaluation of two prompts."""

    orders = tuple(EvalOrder("heldout", index, 1, 4, "") for index in range(2))
    manifest = SimpleNamespace(folder="weights/1")


def test_an_evaluation_prints_its_figures_as_text_or_as_json(monkeypatch: pytest.MonkeyPatch) -> None:
    rewards = {"format": FunctionReward(mean=0.25, missing=0.5), "style": FunctionReward(missing=1.0)}
    facts = {"batch": 3, "version": 3, "name": "heldout", "prompts": 2, "samples": 4, "length_mean": 7.25}
    row = EvalRow(**facts, pass_at={1: 0.5, 2: 0.75}, reward=0.5, rewards=rewards, truncated=0.125)

    async def answered(prepared: object, shown: object) -> list[EvalRow]:
        return [row]

    monkeypatch.setattr(evaluation, "prepare", lambda request: _Prepared())
    monkeypatch.setattr(evaluation, "evaluate", answered)
    out = io.StringIO()
    assert commands.evaluate(evaluation.Request(Path("m")), False, Console(file=out, width=200)) == 0
    shown = out.getvalue()
    assert "weights/1: 2 of 2 prompts, 4 samples" in shown
    for line in "pass@1: 0.500", "pass@2: 0.750", "mean reward: 0.500", "format: 0.250", "style: did not apply":
        assert f"  {line}\n" in shown
    assert "cut off: 12.5%" in shown
    out = io.StringIO()
    assert commands.evaluate(evaluation.Request(Path("m")), True, Console(file=out, width=200)) == 0
    assert EvalRow.model_validate_json(out.getvalue()) == row


def _require_report(folder: Path) -> None:
    summary = json_files.read(folder, Summary)
    assert summary is not None and summary.batches == 1
    assert f"report: {folder / report.REPORT}" in (folder / "printed").read_text()
    assert (folder / report.REPORT).exists()
