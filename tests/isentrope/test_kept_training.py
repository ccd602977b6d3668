"""The command `train --only train`: what it refuses, what it starts, and what its folder is told by."""

import io
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest
from kept_batches import AROUND, Disk, make_batch
from rich.console import Console
from run_records import make_outcome, make_row, make_run_record

from isentrope import cli, kept_training, replaying, runfolder, status
from isentrope.errors import ConfigError, RunFolderError
from isentrope.launch import driver
from isentrope.launch.plan import ClaimedRun, make_record
from isentrope.learner import json_files
from isentrope.learner.config import LearnerConfig
from isentrope.learner.intake.ledger import LedgerState
from isentrope.learner.records import BatchRow, Outcome, RunRecord, Summary
from isentrope.learner.training.checkpoint_store import CHECKPOINTS, CheckpointState, CheckpointStore
from isentrope.learner.training.group_store import GroupKeeper
from isentrope.learner.training.journal import Journal
from isentrope.progress import Progress
from isentrope.rollout.broker.access import Role
from isentrope.rollout.data.prompts import encode, open_prompts
from isentrope.rollout.data.tokenizer import load_tokenizer
from isentrope.rollout.wire.control import Mode
from isentrope.runfolder import RunFolder

BATCHES = 2
"""As in the run file, and kept."""


@pytest.fixture
def source(run_file: Path, tmp_path: Path) -> Path:
    """The folder of a run by this run file that has kept two batches."""
    from isentrope.check.findings import check
    from isentrope.config import load
    from isentrope.resolved import resolve

    folder = tmp_path / "source"
    folder.mkdir()
    config, file = load(run_file)
    checked = check(config, file, from_kept=True)
    resolve(checked.config, file, folder).write(folder)
    prompts = open_prompts(config.data, run_folder=file.folder, seed=config.run.seed)
    tokenizer = load_tokenizer(checked.model.path)
    json_files.write(folder, make_run_record(data_digest=prompts.digest, seed=config.run.seed))
    keeper, store, chain = GroupKeeper(folder, 1, Disk()), CheckpointStore(folder / CHECKPOINTS), ""
    store.claim()
    for number in range(1, BATCHES + 1):
        batch = make_batch(number, chain)
        groups = (replace(group, prompt=encode(prompts.train(group.seq), tokenizer)) for group in batch.groups)
        keeper.keep(replace(batch, groups=tuple(groups)), AROUND)
        chain = batch.record.after
    ledger = LedgerState(above=(10, 11, 20, 21), trained=4, batches=BATCHES, chain=chain)
    state = CheckpointState(config_digest="", data_digest="", mode=Mode.ASYNC, ledger=ledger)
    store.finish(store.begin(BATCHES), state, {})
    return folder


class Ranks:
    """Ranks that leave what a run leaves, at once."""

    started: ClassVar[list["Ranks"]] = []

    def __init__(self, config: LearnerConfig, body: Callable[[], None], place: Path, log_folder: Path) -> None:
        self.job, self.batches, self.stop = body.args  # type: ignore[attr-defined]  # a partial
        self.folder = Path(self.job.spec.output_dir)
        self.started.append(self)

    def __enter__(self) -> "Ranks":
        return self

    def __exit__(self, *exc: object) -> None:
        pass

    def wait(self, timeout_s: float) -> bool:
        if (self.folder / Outcome.FILE).exists():
            return True
        Journal(self.folder, BatchRow).append(make_row(1))
        make_outcome(status="finished", batches=self.job.config.batches, trained=4, issued=4).write(self.folder)
        return False

    def result(self) -> None:
        pass


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, run_file: Path, source: Path) -> Callable[..., int]:
    """The exit code of the command with changes, by ranks that do not train."""
    monkeypatch.setattr(kept_training, "LocalRanks", Ranks)
    monkeypatch.setattr(Ranks, "started", [])

    def run(*arguments: str | Path, groups: Path | None = source, only: str = "train") -> int:
        named = ["--groups", groups] if groups is not None else []
        wanted = ["--only", only] if only else []
        command = ["isentrope", "train", run_file, *wanted, *named, *arguments]
        monkeypatch.setattr(sys, "argv", [str(each) for each in command])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert isinstance(ended.value.code, int)
        return ended.value.code

    return run


def test_a_run_trains_the_groups_that_another_has_kept(
    run: Callable[..., int], run_file: Path, source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changes = ("learner.method=gspo", "learner.learning_rate=1e-4", "run.seed=7")
    assert run(*changes) == 0
    (started,) = Ranks.started
    assert [path.name for path in started.batches] == ["1-1", "2-1"]
    assert (started.job.url, started.job.config.method) == ("", "gspo")
    folder = run_file.parent / "runs" / "mine"
    record, summary = json_files.read(folder, RunRecord), json_files.read(folder, Summary)
    assert record is not None and (record.groups_of, record.actors) == (str(source), 0)
    assert "redis" not in record.versions
    assert summary is not None and summary.groups_of == str(source)
    page = (folder / "report.html").read_text()
    assert "no rollout actors" in page and f"kept by the run in {source}" in page
    assert "It trained groups of another run, whose reward went from" in page
    assert "finished after 2 batches" in capsys.readouterr().out
    assert run() == 73  # the same folder with another method
    assert run(*changes) == 0
    assert "is finished; raise learner.batches" in capsys.readouterr().out
    assert len(Ranks.started) == 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["learner.mode=on_policy"], "kept groups are of the weights of the run that made them"),
        (["learner.batches=3"], "has kept 2 batches up to its newest checkpoint"),
        (["sampling.temperature=0.7"], "sampling.temperature was 1.0 and is 0.7"),
        (["learner.prompts_per_batch=8"], "learner.prompts_per_batch was 32 and is 8"),
        (["data.reward=rewards:graded"], 'data.reward was "rewards:exact" and is "rewards:graded"'),
        (["cluster.ray=10.0.0.1:6379"], "the Ray at 10.0.0.1:6379 is given"),
        (["--ray-address", "10.0.0.1:6379"], "the Ray at 10.0.0.1:6379 is given"),
        (["run.output_dir=source"], "set another run.output_dir"),
    ],
)
def test_what_it_cannot_do_is_refused(
    run: Callable[..., int], capsys: pytest.CaptureFixture[str], arguments: list[str], says: str
) -> None:
    assert run(*arguments) == 64
    assert says in capsys.readouterr().err
    assert Ranks.started == []


def test_options_that_do_not_fit_are_refused(
    run: Callable[..., int], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for only, groups, code, says in (
        ("train", None, 64, "--only train needs groups"),
        ("rollout", tmp_path, 64, "--groups names groups to train, and --only is rollout"),
        ("", tmp_path, 64, "--groups names groups to train, and --only is not given"),
        ("rollout", None, 64, "--only rollout makes groups to keep, and learner.retain = 'none' keeps none"),
        ("learn", None, 64, "there is no part 'learn' of training"),
        ("train", tmp_path / "nowhere", 73, "there is no"),
    ):
        assert run(only=only, groups=groups) == code
        assert says in capsys.readouterr().err


def test_other_data_are_refused(run: Callable[..., int], run_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run_file.parent / "other.jsonl").write_text('{"prompt": "7 > 3 :", "answer": "+3 0"}\n')
    assert run("data.train=other.jsonl") == 64
    assert "the data have digest" in capsys.readouterr().err
    (run_file.parent / "moved.jsonl").write_bytes((run_file.parent / "train.jsonl").read_bytes())
    assert run("data.train=moved.jsonl") == 0


def test_a_model_with_other_tokens_is_refused(
    run: Callable[..., int], source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    GroupKeeper(source, 1, Disk()).keep(make_batch(1), AROUND)  # by another tokenizer, its prompts had these tokens
    assert run() == 64
    assert "the prompt of kept group 10 has other tokens by the tokenizer of model" in capsys.readouterr().err


def test_a_run_on_processor_cores_stays_there(run: Callable[..., int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert run("cluster.gpus=false", "learner.batches=9") == 64  # refused later
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ""


def test_neither_actors_nor_their_broker_nor_the_reward_are_asked_for(
    run: Callable[..., int], monkeypatch: pytest.MonkeyPatch, run_file: Path
) -> None:
    monkeypatch.setenv("ISENTROPE_REDIS_URL", "redis://127.0.0.1:1")
    (run_file.parent / "rewards.py").write_text("raise RuntimeError('a service that is away')\n")
    assert run() == 0


def test_groups_are_made_and_kept_by_a_command_of_its_own(
    run: Callable[..., int], run_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = run_file.parent / "runs" / "mine"

    def drive(claimed: ClaimedRun, progress: Progress) -> Outcome:
        assert claimed.only == "rollout" and claimed.groups is None
        claimed.folder.begin(make_record(claimed, socket="", redis_version="7"))
        Journal(folder, BatchRow).append(make_row(1, updates=0))
        return make_outcome(status="finished", batches=2)

    monkeypatch.setattr(driver, "drive", drive)
    assert run("learner.retain=groups", only="rollout", groups=None) == 0
    page = (folder / "report.html").read_text()
    assert "Groups were made and kept, and nothing was trained" in page
    assert not (folder / "final").exists()
    assert run("learner.retain=groups", only="", groups=None) == 73
    assert "was begun with --only rollout, and this command has no --only" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="nothing was trained in"):
        replaying.replay(replaying.Request(folder), False, Console(quiet=True))


def test_a_folder_is_continued_by_the_command_that_began_it_alone(tmp_path: Path) -> None:
    for began, other, says in (("train", "", "--only train"), ("", "rollout", "no --only"), ("rollout", "", "rollout")):
        folder = tmp_path / f"run-{began}"
        with RunFolder.claim(folder, config_digest="c", data_digest="d", only=began) as claimed:
            claimed.begin(make_run_record(only=began))
        with pytest.raises(RunFolderError) as raised:
            RunFolder.claim(folder, config_digest="c", data_digest="d", only=other)
        assert says in raised.value.fix
        RunFolder.claim(folder, config_digest="c", data_digest="d", only=began).release()


def test_its_status_says_what_it_does(tmp_path: Path) -> None:
    shown = io.StringIO()
    with RunFolder.claim(tmp_path / "run", config_digest="c", data_digest="d", only="train") as claimed:
        claimed.begin(make_run_record(only="train", groups_of="/runs/a"))
        assert status.read_status(claimed.path).live is None
        Journal(claimed.path, BatchRow).append(make_row(1))
        status.show(status.read_status(claimed.path), Console(file=shown, width=200))
    assert "training kept groups" in shown.getvalue()
    assert "it trains the groups that /runs/a has kept" in shown.getvalue()


def test_commands_that_ask_the_broker_say_that_there_is_none() -> None:
    with pytest.raises(ConfigError, match="has no broker: it trains the groups that /runs/a has kept"):
        runfolder.open_view(make_run_record(groups_of="/runs/a"), Role.VIEWER, deadline_s=1.0)
