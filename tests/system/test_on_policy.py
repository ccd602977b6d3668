"""An exact on-policy run repeats itself to the bit, also if its ranks are killed: tokens of the current version alone,
equal metrics and weights."""

import json
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest
from whole_commands import Command, Start, batches, lines, writes

from isentrope.handbook.outputs import files, outputs
from isentrope.learner.beginning_record import Beginning
from isentrope.learner.outage_record import OutageRow
from isentrope.learner.placement_record import ScaleRow
from isentrope.learner.records import Notice

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

BATCHES = 4
AGAIN = "ranks were started again"
"""Note of the command after a kill."""

MAY_DIFFER = {"time", "process", "version", "issued", "retired", "untrained"}
"""What depends on the clock, and on who was there: a later learner has other versions, and finds more orders out."""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, start: Start) -> tuple[Path, Path]:
    """The same demo twice; the second loses its rank 0 twice, between a publication and the next plan."""
    folders = (tmp_path_factory.mktemp("first"), tmp_path_factory.mktemp("second"))
    options = ("--mode", "on_policy", "--batches", str(BATCHES), "--seed", "3", "--output-dir", "run")
    for folder in folders:
        command, run = start("demo", *options, folder=folder), folder / "run"
        if folder is folders[1]:
            _kill_first_rank(command, run, trained=1, kills=0)
            _kill_first_rank(command, run, trained=3, kills=1)
        assert command.wait() == 0, command.output
    return folders[0] / "run", folders[1] / "run"


def _kill_first_rank(command: Command, run: Path, *, trained: int, kills: int) -> None:
    """Kill rank 0 once this batch was trained, also by the ranks that were started after so many kills before."""
    command.until(lambda: command.output.count(AGAIN) == kills and trained in batches(run))
    (rank,) = [each for each in command.processes("ray::RayTrainWorker") if writes(each, "learner-0.log")]
    rank.kill()


@pytest.mark.parametrize("file", [name for name in sorted(files()) if name != Beginning.FILE])
def test_every_key_that_a_run_writes_is_explained(runs: tuple[Path, Path], file: str) -> None:
    """But of the file that says with which other run it began: these began with none."""
    names = [entry.name for entry in outputs() if entry.group == file]
    path = runs[0] / file
    written = lines(path) if path.suffix == ".jsonl" else [json.loads(path.read_text())]
    keys = {key for record in written for key in _keys(record)}
    assert keys or file in (
        Notice.FILE,
        ScaleRow.FILE,
        OutageRow.FILE,
    )  # a sound run has no warnings, and loses nothing
    assert [key for key in keys if not any(_explains(name, key) for name in names)] == []


def _explains(name: str, key: str) -> bool:
    """Whether an entry is about a key, about the table it is in, or about a table that is null."""
    return fnmatchcase(key, name) or key.startswith(f"{name}.") or name.startswith(f"{key}.")


def _keys(record: Mapping[str, Any], path: str = "") -> Iterator[str]:
    """Yield the keys of a record, those of nested ones behind a dot."""
    for key, value in record.items():
        if isinstance(value, Mapping) and value:
            yield from _keys(value, f"{path}{key}.")
        else:
            yield f"{path}{key}"


def _metrics(run: Path) -> list[dict[str, Any]]:
    """The lines of a run, without what may differ; the tokens of an earlier learner are not of the newest version."""
    rows = lines(run / "metrics.jsonl")
    for row in rows:
        row["objective"].pop("logp_gap_fresh", None)
    return [{key: value for key, value in row.items() if key not in MAY_DIFFER} for row in rows]


def _last_weights(run: Path) -> list[tuple[str, str]]:
    """Name and digest of the shards of the newest version."""
    newest = max((int(path.name), path) for path in (run / "weights").iterdir() if path.name.isdigit())[1]
    manifest = json.loads((newest / "manifest.json").read_text())
    return [(shard["file"], shard["digest"]) for shard in manifest["shards"]]


def test_every_trained_token_is_of_the_current_version(runs: tuple[Path, Path]) -> None:
    for run in runs:
        assert [line["lag_max"] for line in lines(run / "metrics.jsonl")] == [0] * BATCHES
        assert json.loads((run / "summary.json").read_text())["max_token_lag"] == 0


def test_equal_seeds_give_equal_metrics(runs: tuple[Path, Path]) -> None:
    first, second = map(_metrics, runs)
    assert len(first) == BATCHES and first == second


def test_equal_seeds_give_equal_weights(runs: tuple[Path, Path]) -> None:
    first, second = map(_last_weights, runs)
    assert first and first == second


def test_engine_and_learner_agree_on_the_first_batch(runs: tuple[Path, Path]) -> None:
    """Mean difference of the sampled tokens' log-probabilities, in nats."""
    assert lines(runs[0] / "metrics.jsonl")[0]["logp_gap_mean"] < 1e-5
