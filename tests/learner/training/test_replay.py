"""A run's own steps come out again to the bit, from its folder alone; where they do not, the place is named."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from whole_run import Run

from isentrope.errors import ConfigError, StorageError
from isentrope.learner.intake.buffer import ReadyBatch
from isentrope.learner.training.checkpoint_store import facts_of
from isentrope.learner.training.collectives import Collectives
from isentrope.learner.training.group_store import encode, read_batch, read_record
from isentrope.learner.training.replay import Parting, Route, find_route, repeat

pytestmark = pytest.mark.slow

Replayed = Callable[[Route], Parting | None]


@pytest.fixture(scope="module")
def run(new_run: Callable[..., Run]) -> Run:
    """One rank, several checkpoints, and a controller that acts in every update."""
    objective = {"control": [{"kind": "entropy_step", "target": 50.0, "delta": 1e-4, "high": 1.0}]}
    made = new_run(
        ranks=1, mode="async", batches=6, checkpoint_every=2, keep_checkpoints=9, retain="groups", objective=objective
    )
    return made.to_the_end()


@pytest.fixture
def folder(run: Run, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    shutil.copytree(run.folder, tmp_path / "run")
    return tmp_path / "run"


def again(run: Run, route: Route, work: Path) -> Parting | None:
    """Make the steps again in a folder of their own."""
    work.mkdir()
    spec = run.job.spec.model_copy(update={"output_dir": str(work)})
    return repeat(replace(run.job, spec=spec, url=""), route)


@pytest.fixture
def replayed(run: Run, alone: Collectives, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Replayed:
    monkeypatch.setenv("LOCAL_RANK", "0")  # as a launcher sets it
    return lambda route: again(run, route, tmp_path / "work")


def test_it_comes_out_again_and_its_folder_stays_as_it_was(run: Run, replayed: Replayed) -> None:
    before = {path: path.stat().st_mtime_ns for path in run.folder.rglob("*")}
    route = find_route(run.folder, None, "")
    assert (route.first, route.last, route.goal) == (1, 6, "step-6-1")
    assert list(route.checkpoints) == [2, 4, 6]
    assert replayed(route) is None
    assert {path: path.stat().st_mtime_ns for path in run.folder.rglob("*")} == before


@pytest.mark.parametrize("begin", ["2", "step-2-1"])
def test_it_comes_out_again_from_a_checkpoint(run: Run, replayed: Replayed, begin: str) -> None:
    route = find_route(run.folder, 4, begin)
    assert [path.name for path in route.batches] == ["3-1", "4-1"]
    assert replayed(route) is None


def test_a_flipped_bit_of_a_kept_payload_is_named(folder: Path, replayed: Replayed) -> None:
    file = folder / "groups" / "3-1"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    last = read_record(file).groups[-1].header["seq"]
    with pytest.raises(StorageError, match=f"kept payload of group {last} of batch 3 is damaged"):
        replayed(find_route(folder, None, ""))


def test_another_group_under_a_right_digest_is_named_by_its_batch_and_what_it_changes(
    folder: Path, replayed: Replayed
) -> None:
    file = folder / "groups" / "3-1"
    kept = read_batch(file)
    first, *others = kept.groups
    answer = replace(first.responses[0], reward=first.responses[0].reward + 0.5)
    groups = (replace(first, responses=(answer, *first.responses[1:])), *others)
    file.write_bytes(encode(ReadyBatch(kept.record.plan, groups, replayed=False), kept.record.circumstances))
    parting = replayed(find_route(folder, None, ""))
    assert parting is not None and (parting.batch, parting.where) == (3, "metrics.jsonl, batch 3")
    assert "is " in parting.what and "and was" in parting.what


def spoil(checkpoint: Path, part: str = "") -> Path:
    """Turn one bit of a moment under a right digest, and return the file."""
    (file,) = (checkpoint / part).glob("*optim_states.pt")
    state = torch.load(file, weights_only=True)
    moment = state["optimizer_state_dict"]["base_optimizer_state"]["state"][0]["exp_avg"]
    moment.view(torch.int32)[3] ^= 1
    torch.save(state, file)
    manifest = json.loads((checkpoint / "manifest.json").read_text())
    manifest["files"][file.relative_to(checkpoint).as_posix()] = facts_of(file).model_dump()
    (checkpoint / "manifest.json").write_text(json.dumps(manifest))
    return file


def test_one_bit_of_a_checkpoint_is_named_by_its_tensor(folder: Path, replayed: Replayed) -> None:
    checkpoint = folder / "checkpoints" / "step-4-1"
    file = spoil(checkpoint)
    parting = replayed(find_route(folder, None, ""))
    assert parting is not None and (parting.batch, parting.where) == (4, "checkpoint step-4-1")
    assert file.name in parting.what and parting.what.endswith("exp_avg")


def test_a_critics_steps_come_out_again_and_a_bit_of_it_is_named(
    new_run: Callable[..., Run], alone: Collectives, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a batch that trains the critic alone; from the beginning, and from a checkpoint of both engines."""
    monkeypatch.setenv("LOCAL_RANK", "0")  # as a launcher sets it
    own = {"method": "ppo", "objective": {"critic": {"warmup_batches": 1}}}
    run = new_run(ranks=1, batches=4, checkpoint_every=2, keep_checkpoints=9, retain="groups", **own).to_the_end()
    assert [row["updates"] for row in run.rows] == [0, 2, 2, 2]
    assert all(row["objective"]["loss_value"] > 0 for row in run.rows)
    assert run.rows[0]["objective"]["value_mean"] == 0 != run.rows[-1]["objective"]["value_mean"]
    for place, begin in enumerate(("", "2")):
        assert again(run, find_route(run.folder, None, begin), tmp_path / f"work-{place}") is None
    spoil(run.folder / "checkpoints" / "step-4-1", "critic")
    parting = again(run, find_route(run.folder, None, "2"), tmp_path / "spoilt")
    assert parting is not None and parting.what.startswith("the state differs in critic/")


def test_a_batch_that_the_run_has_skipped_has_no_part_in_it(
    new_run: Callable[..., Run], alone: Collectives, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCAL_RANK", "0")  # as a launcher sets it
    run = new_run(ranks=1, mode="async", method="dr_grpo", batches=4, keep_checkpoints=9, retain="groups")
    run.actor.unbounded = frozenset(range(4, 8))  # of one batch: there is one actor
    run.to_the_end()
    assert run.outcome["retired"]["nonfinite"] == 4 and run.accounts_for_every_group()
    assert [row["batch"] for row in run.rows] == [1, 2, 3, 4]
    assert again(run, find_route(run.folder, None, ""), tmp_path / "work") is None


def test_a_damaged_checkpoint_is_not_compared_with(folder: Path, replayed: Replayed) -> None:
    (file,) = (folder / "checkpoints" / "step-2-1").glob("*optim_states.pt")
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(StorageError, match="checkpoint step-2-1 is damaged"):
        replayed(find_route(folder, None, ""))


def test_a_damaged_line_of_the_metrics_costs_only_the_comparison_of_its_batch(
    folder: Path, replayed: Replayed, caplog: pytest.LogCaptureFixture
) -> None:
    file = folder / "metrics.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join([*lines[:2], lines[2][:40] + b"\n", *lines[3:]]))
    assert replayed(find_route(folder, None, "")) is None
    assert "a line is left out" in caplog.text and "metrics.jsonl:3" in caplog.text


def test_what_cannot_be_replayed_says_why(run: Run, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no checkpoint 5 in") as raised:
        find_route(run.folder, 5, "")
    assert raised.value.fix == "of these: step-6-1, step-4-1, step-2-1"
    with pytest.raises(ConfigError, match="there is no checkpoint step-1-1"):
        find_route(run.folder, None, "step-1-1")
    with pytest.raises(ConfigError, match="between batch 6 and step-6-1"):
        find_route(run.folder, None, "6")
    with pytest.raises(ConfigError, match="has no checkpoint"):
        find_route(tmp_path, None, "")
    (folder / "groups" / "2-1").unlink()
    with pytest.raises(ConfigError, match="no groups of batches 1 to 2 are kept"):
        find_route(folder, None, "")
    assert find_route(folder, None, "2").first == 3


def test_batches_of_other_ranks_are_not_replayed_by_these(folder: Path) -> None:
    file = folder / "groups" / "4-1"
    kept = read_batch(file)
    others = kept.record.circumstances.model_copy(update={"ranks": 2})
    file.write_bytes(encode(ReadyBatch(kept.record.plan, kept.groups, replayed=False), others))
    with pytest.raises(ConfigError, match=r"went on with other ranks, or another .*, at batch 4"):
        find_route(folder, None, "")
    assert find_route(folder, 2, "").last == 2
