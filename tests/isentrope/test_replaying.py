"""The command `replay`: what it starts, what it prints, and how it ends."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from kept_batches import AROUND, Disk, make_batch
from run_records import make_run_record

from isentrope import cli, replaying
from isentrope.errors import StorageError
from isentrope.learner import json_files
from isentrope.learner.intake.ledger import LedgerState
from isentrope.learner.training.checkpoint_store import CHECKPOINTS, CheckpointState, CheckpointStore, FileFacts
from isentrope.learner.training.group_store import GroupKeeper
from isentrope.learner.training.replay import Parting, Route
from isentrope.rollout.wire.control import Mode


@pytest.fixture
def run(tmp_path: Path, run_file: Path) -> Path:
    """The folder of a run of one kept batch by two ranks, and its checkpoint; there is nothing to train in it."""
    folder = tmp_path / "run"
    folder.mkdir()
    json_files.write(folder, make_run_record().model_copy(update={"versions": {"isentrope": "0.0.1"}}))
    batch = make_batch(1)
    GroupKeeper(folder, 1, Disk()).keep(batch, AROUND)
    store = CheckpointStore(folder / CHECKPOINTS)
    store.claim()
    files = {}
    name = store.begin(1)
    for rank in range(2):
        (store.unfinished(name) / f"random-{rank}.safetensors").touch()
        files[f"random-{rank}.safetensors"] = FileFacts(size_bytes=0, digest="")
    ledger = LedgerState(lwm=0, above=(10, 11), trained=2, batches=1, chain=batch.record.after)
    store.finish(name, CheckpointState(config_digest="", data_digest="", mode=Mode.ASYNC, ledger=ledger), files)
    text = run_file.read_text().replace("[run]", f'[run]\nbase_dir = "{run_file.parent}"')
    (folder / "run.toml").write_text(text)
    return folder


def replay(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path, found: object = None) -> int:
    """Exit code of the command, whose ranks find this."""
    started: list[Any] = []

    def repeated(job: Any, route: Route) -> object:
        started.append(job)
        if isinstance(found, StorageError):
            raise found
        return found

    monkeypatch.setattr(replaying, "_repeated", repeated)
    monkeypatch.setattr(sys, "argv", ["isentrope", "replay", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert isinstance(ended.value.code, int)
    assert all((job.config.ranks, job.url) == (2, "") for job in started)
    return ended.value.code


def test_it_says_what_came_out(monkeypatch: pytest.MonkeyPatch, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert replay(monkeypatch, run) == 0
    assert "batches 1 to 1 were trained again by 2 ranks" in capsys.readouterr().out
    assert replay(monkeypatch, run, "--to", "1", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told == {"run": str(run), "first": 1, "last": 1, "checkpoint": "step-1-1", "ranks": 2}


@pytest.mark.parametrize(
    ("found", "code", "says"),
    [
        (Parting(1, "loss is 1, and was 2", "metrics.jsonl, batch 1"), 70, "parts from the run in batch 1: loss is 1"),
        (Parting(1, "the state differs", "checkpoint"), 70, "isentrope was 0.0.1 and is "),
        (StorageError("the kept payload of group 3 of batch 1 is damaged"), 74, "payload of group 3 of batch 1"),
    ],
)
def test_where_it_parts_is_an_error(
    monkeypatch: pytest.MonkeyPatch, run: Path, capsys: pytest.CaptureFixture[str], found: object, code: int, says: str
) -> None:
    assert replay(monkeypatch, run, found=found) == code
    assert says in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "spoil", "code", "says"),
    [
        (["--to", "2"], "", 64, "there is no checkpoint 2 in"),
        (["--from", "7"], "", 64, "there is no checkpoint 7 in"),
        ([], "groups/1-1", 64, "no groups between batch 0 and step-1-1 are kept"),
        ([], "run.toml", 64, "has no run.toml"),
        (["--model", "nowhere"], "", 64, "nowhere"),
    ],
)
def test_what_cannot_be_replayed_is_refused(
    monkeypatch: pytest.MonkeyPatch,
    run: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    spoil: str,
    code: int,
    says: str,
) -> None:
    if spoil:
        (run / spoil).unlink()
    assert replay(monkeypatch, run, *arguments) == code
    assert says in capsys.readouterr().err
