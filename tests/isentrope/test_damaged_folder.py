"""Whatever becomes of a bookkeeping file of a run folder, every command says what it can of the run, and its exit code
is that of the whole folder."""

import io
import shutil
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path

import pytest
from kept_batches import make_batch
from rich.console import Console
from run_records import make_outcome, make_row, make_run_record
from run_states import run_in

from isentrope import cli, report, runfolder
from isentrope.errors import StorageError
from isentrope.learner import json_files
from isentrope.learner.outage_record import OutageRow
from isentrope.learner.placement_record import PlacementRecord, ScaleRow
from isentrope.learner.records import BatchRow, EvalRow, Notice, Outcome, SampleRow, Summary
from isentrope.learner.training.dead_letters import FOLDER, DeadLetters
from isentrope.learner.training.journal import Journal
from isentrope.learner.training.sinks import TensorBoard
from isentrope.progress import Tail
from isentrope.report.contents import read_contents
from isentrope.report.summary import summarise
from isentrope.runfolder import RunFolder
from isentrope.runs import State, read_run
from isentrope.status import read_status, show

Damage = Callable[[Path], None]


def _folder(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    path.mkdir()
    (path / "inside").touch()


def _text(text: bytes) -> Damage:
    def damage(path: Path) -> None:
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        path.write_bytes(text)

    return damage


def _link(target: str) -> Damage:
    def damage(path: Path) -> None:
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        path.symlink_to(target or path)

    return damage


def _cut(path: Path) -> None:
    content = path.read_bytes() if path.is_file() else b"cut"
    _text(content[: len(content) // 2])(path)


DAMAGES: dict[str, Damage] = {
    "cut": _cut,
    "empty": _text(b""),
    "not JSON": _text(b"\x00\xff\xfe{\n\n"),
    "a list": _text(b"[]\n[]\n"),
    "wrong types": _text(
        b'{"status": 7, "exit_code": "x", "batch": "first", "reward": {}, "actors": 3, "alarms": [], "mode": null, '
        b'"entropy": "", "tokens": "", "run": [], "at": {}}\n'
    ),
    "deep": _text(b"[" * 100_000 + b"\n"),
    "a folder": _folder,
    "a link to itself": _link(""),
    "unreadable": _link("/proc/self/mem"),  # there, and every read is an error of the system: also root's
}

OF_ANY = ("cut", "a folder", "a link to itself", "unreadable")
"""Damages of files that hold no JSON."""

FILES = (
    Outcome.FILE,
    BatchRow.FILE,
    EvalRow.FILE,
    SampleRow.FILE,
    Notice.FILE,
    OutageRow.FILE,
    ScaleRow.FILE,
    PlacementRecord.FILE,
    Summary.FILE,
    "step.json",
    "mode.json",
    "run.toml",
    "objective.toml",
    report.REPORT,
    "logs",
    "logs/learner-0.log",
    FOLDER,
    f"{FOLDER}/LETTER",
    "checkpoints",
    "weights",
    "groups",
)
"""All that a run leaves but its record and its lock."""

COMMANDS = (
    ("status", "RUN"),
    ("status", "RUN", "--json"),
    ("runs", "PLACE"),
    ("logs", "RUN"),
    ("stop", "RUN"),
    ("dlq", "list", "RUN"),
)
"""Commands that end with 0 on a whole folder. Those that draw or go on with a run have tests of their own."""


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two ended runs with every file."""
    place = tmp_path_factory.mktemp("sound")
    for name, method in (("run", "grpo"), ("other", "dapo")):
        with run_in("finished", place / name, run=name, method=method) as folder:
            fill(folder)
    return place


def fill(folder: Path) -> None:
    """Write every file of a run."""
    Journal(folder, Notice).append(Notice(at=1.0, text="a warning"))
    Journal(folder, OutageRow).append(OutageRow(role="actor", name="a1", began=1.0, ended=2.0, batches=0))
    (folder / "logs" / "learner-0.log").write_text("a line\n")
    DeadLetters(folder).write(make_batch(3), incarnation=1, deaths=2)
    for file in FILES:
        if "." not in file and "/" not in file:
            (folder / file).mkdir(exist_ok=True)
        elif "/" not in file:
            (folder / file).touch()


@pytest.fixture
def place(sound: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    shutil.copytree(sound, tmp_path / "place")
    return tmp_path / "place"


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """The exit code of a command."""

    def code(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["isentrope", *arguments])
        with redirect_stdout(io.StringIO()), pytest.raises(SystemExit) as ended:
            cli.main()
        return int(ended.value.code or 0)

    return code


def path_of(folder: Path, file: str) -> Path:
    return next((folder / FOLDER).glob("*-*")) if file.endswith("LETTER") else folder / file


@pytest.mark.parametrize(
    ("damage", "file"),
    [(damage, file) for file in FILES for damage in DAMAGES if ".json" in file or damage in OF_ANY],
)
def test_no_damage_of_a_file_changes_an_exit_code(
    damage: str, file: str, place: Path, command: Callable[..., int]
) -> None:
    folder = place / "run"
    DAMAGES[damage](path_of(folder, file))
    words = {"RUN": str(folder), "PLACE": str(place)}
    for arguments in COMMANDS:
        assert command(*(words.get(each, each) for each in arguments)) == 0, arguments
    contents = read_contents(folder)
    assert summarise(contents).batches == len(contents.batches) == 3 or file == BatchRow.FILE


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_report_and_a_comparison_are_written_of_what_is_left(
    damage: str, place: Path, command: Callable[..., int]
) -> None:
    folder = place / "run"
    for file in FILES:
        if "/" not in file:
            DAMAGES[damage](folder / file)
    page = place / "comparison.html"
    assert command("compare", str(folder), str(place / "other"), "--page", str(page)) == 0
    assert page.is_file()
    assert report.write(folder).is_file() and (folder / Summary.FILE).is_file()


def told(folder: Path) -> str:
    out = io.StringIO()
    show(read_status(folder), Console(file=out, width=500))
    return out.getvalue()


@pytest.mark.parametrize("damage", [name for name in DAMAGES if name != "a link to itself"])
def test_status_names_a_damaged_outcome_and_tells_the_rest(damage: str, place: Path) -> None:
    DAMAGES[damage](place / "run" / Outcome.FILE)
    text = told(place / "run")
    assert "outcome.json is damaged: " in text and "move the file away" in text
    assert "how it ended is not known" in text and "batch 3 of 10: reward 0.500" in text
    DAMAGES[damage](place / "run" / BatchRow.FILE)
    assert "outcome.json is damaged: " in told(place / "run")


def test_a_list_of_runs_tells_what_is_left_of_one(place: Path) -> None:
    _folder(place / "run" / Outcome.FILE)
    found = read_run(place / "run")
    assert (found.state, found.batch, found.batches) == (State.DAMAGED, 3, 10)
    assert "outcome.json" in found.why
    (place / "run" / Outcome.FILE / "inside").unlink()
    (place / "run" / Outcome.FILE).rmdir()
    _folder(place / "run" / BatchRow.FILE)
    found = read_run(place / "run")
    assert (found.state, found.batch, found.batches) == (State.DAMAGED, 0, 10)


@pytest.mark.parametrize("damage", DAMAGES)
def test_the_same_command_goes_on_over_damaged_files(damage: str, place: Path) -> None:
    """What it and its learner write is there afterwards, whatever was in its place."""
    folder = place / "run"
    kinds = (Outcome, BatchRow, EvalRow, SampleRow, Notice, OutageRow, ScaleRow, PlacementRecord, Summary)
    for kind in kinds:
        DAMAGES[damage](folder / kind.FILE)
    with RunFolder.claim(folder, config_digest="c", data_digest="d") as claimed:
        assert not claimed.is_finished(3)
        tails = [Tail(folder, kind, from_end=True) for kind in (BatchRow, EvalRow, Notice)]
        assert [list(tail.read()) for tail in tails] == [[], [], []]
        claimed.begin(make_run_record())
        assert not (folder / Outcome.FILE).exists()
        for kind in (BatchRow, EvalRow, SampleRow):
            Journal(folder, kind).rewind(0)
        journal = Journal(folder, BatchRow)
        journal.append(make_row(1))
        assert [row.batch for row in journal.rows()] == [1]
        assert [row.batch for row in Tail(folder, BatchRow, from_end=False).read()] == [1]
        json_files.write(folder, make_outcome(batches=1))
        runfolder.record_error(folder, StorageError("it broke"))
    outcome = json_files.read(folder, Outcome)
    assert outcome is not None and (outcome.what, outcome.batches) == ("it broke", 1)


def test_what_was_in_the_place_of_a_file_is_kept_beside_it(place: Path) -> None:
    for _ in range(2):
        _folder(place / "run" / BatchRow.FILE)
        Journal(place / "run", BatchRow).rewind(0)
    aside = sorted(path.name for path in (place / "run").glob("metrics.jsonl.*"))
    assert aside == ["metrics.jsonl.damaged", "metrics.jsonl.damaged1"]


def test_files_for_tensorboard_that_cannot_be_written_cost_nothing_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "tensorboard").write_text("in its place")
    sink = TensorBoard(tmp_path / "tensorboard")
    sink.write(1, {"reward": 0.5})
    sink.close()
    assert "no more files for TensorBoard" in caplog.text
