"""Claims, pointers and folders: whatever dies when, the next learner begins where it should, never from a torn one."""

import json
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from isentrope.errors import FencedError, StorageError
from isentrope.learner.intake.ledger import LedgerState
from isentrope.learner.training.checkpoint_store import (
    MANIFEST,
    STATE,
    CheckpointState,
    CheckpointStore,
    FileFacts,
    facts_of,
    verify,
)
from isentrope.learner.training.fault_points import VARIABLE
from isentrope.rollout.wire.control import Mode

SHARD = "shard.pt"


def state_of(batch: int) -> CheckpointState:
    ledger = LedgerState(lwm=batch * 4, trained=batch * 4, batches=batch)
    return CheckpointState(
        config_digest="c", data_digest="d", mode=Mode.ASYNC, ledger=ledger, controllers={"k": {"best": -1e308}}
    )


def learner(root: Path) -> CheckpointStore:
    store = CheckpointStore(root)
    store.claim()
    return store


def save(store: CheckpointStore, batch: int) -> str:
    name = store.begin(batch)
    shard = store.unfinished(name) / SHARD
    shard.write_bytes(f"weights of {batch}".encode())
    store.finish(name, state_of(batch), {SHARD: facts_of(shard)})
    return name


def wrong_with(store: CheckpointStore, name: str) -> str:
    files = store.files(name)
    return verify(store.folder(name), files, sorted(files))


def in_child(work: Callable[[], object]) -> int:
    """Signal that ended a forked process which did `work`; 0: none."""
    child = os.fork()
    if child == 0:
        work()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_a_new_run_has_nothing_to_continue(tmp_path: Path) -> None:
    store = learner(tmp_path)
    assert store.claimed.incarnation == 1
    assert list(store.lineage()) == []


def test_no_two_learners_share_a_number(tmp_path: Path) -> None:
    stores = [CheckpointStore(tmp_path) for _ in range(16)]
    threads = [threading.Thread(target=store.claim) for store in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(store.claimed.incarnation for store in stores) == list(range(1, 17))


def test_a_learner_continues_from_the_newest_checkpoint_of_the_one_before(tmp_path: Path) -> None:
    first = learner(tmp_path)
    save(first, 2)
    save(first, 4)
    second = learner(tmp_path)
    assert list(second.lineage()) == ["step-4-1", "step-2-1"]
    assert second.state("step-4-1") == state_of(4)


def test_a_learner_that_saved_nothing_hands_on_its_parent(tmp_path: Path) -> None:
    save(learner(tmp_path), 2)
    learner(tmp_path)
    third = learner(tmp_path)
    assert (third.claimed.incarnation, third.claimed.parent) == (3, "step-2-1")


def test_a_replaced_learner_cannot_save(tmp_path: Path) -> None:
    old = learner(tmp_path)
    save(old, 2)
    new = learner(tmp_path)
    with pytest.raises(FencedError, match="learner 2 took over from 1"):
        save(old, 4)
    assert list(new.lineage()) == ["step-2-1"]


def test_a_pointer_moved_after_the_take_over_is_read_by_nobody(tmp_path: Path) -> None:
    """A learner stopped between its look at the claims and its pointer wakes up when another one has begun."""
    old = learner(tmp_path)
    save(old, 2)
    learner(tmp_path)
    (tmp_path / "step-4-1").mkdir()
    (tmp_path / "latest.1").write_text("step-4-1")
    assert list(learner(tmp_path).lineage()) == ["step-2-1"]


@pytest.mark.parametrize(
    ("place", "begins_at"),
    [("commit.before_manifest", "step-2-1"), ("commit.before_pointer", "step-2-1"), ("", "step-4-1")],
)
def test_a_crash_leaves_the_old_checkpoint_or_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, begins_at: str
) -> None:
    first = learner(tmp_path)
    save(first, 2)
    monkeypatch.setenv(VARIABLE, f"{place}:4")
    assert in_child(lambda: save(first, 4)) == (-signal.SIGKILL if place else 0)
    monkeypatch.delenv(VARIABLE)
    second = learner(tmp_path)
    name = next(second.lineage())
    assert name == begins_at
    assert wrong_with(second, name) == ""
    save(second, 4)
    second.prune(1)
    assert [path.name for path in tmp_path.glob("step-*")] == ["step-4-2"]


def test_crash_points_do_nothing_unless_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "commit.before_pointer:3")
    assert in_child(lambda: save(learner(tmp_path), 4)) == 0


def shorten(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flip(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))


@pytest.mark.parametrize("file", [SHARD, STATE])
@pytest.mark.parametrize("damage", [shorten, flip, Path.unlink])
def test_damage_to_any_file_is_seen(tmp_path: Path, file: str, damage: Callable[[Path], None]) -> None:
    store = learner(tmp_path)
    name = save(store, 2)
    assert wrong_with(store, name) == ""
    damage(store.folder(name) / file)
    assert file in wrong_with(store, name)


@pytest.mark.parametrize("text", ["", "{}", '{"files": {"a": {}}}', '{"files": []}', "[]", "[" * 100_000])
def test_a_broken_manifest_is_a_storage_error(tmp_path: Path, text: str) -> None:
    store = learner(tmp_path)
    name = save(store, 2)
    (store.folder(name) / MANIFEST).write_text(text)
    with pytest.raises(StorageError, match="cannot be read"):
        store.files(name)


@pytest.mark.parametrize("unlisted", [SHARD, STATE])
def test_a_manifest_that_lists_less_than_is_loaded_is_a_storage_error(tmp_path: Path, unlisted: str) -> None:
    store = learner(tmp_path)
    name = save(store, 2)
    manifest = json.loads((store.folder(name) / MANIFEST).read_text())
    del manifest["files"][unlisted]
    (store.folder(name) / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(StorageError, match=f"does not list {unlisted}"):
        store.files(name)


def test_what_no_manifest_lists_is_not_looked_at(tmp_path: Path) -> None:
    store = learner(tmp_path)
    name = save(store, 2)
    (store.folder(name) / "zero_to_fp32.py").write_text("raise SystemExit")
    assert set(store.files(name)) == {SHARD, STATE}


def test_only_the_newest_checkpoints_are_kept(tmp_path: Path) -> None:
    first = learner(tmp_path)
    for batch in (2, 4):
        save(first, batch)
        first.prune(2)
    second = learner(tmp_path)
    save(second, 6)
    second.prune(2)
    assert sorted(path.name for path in tmp_path.glob("step-*")) == ["step-4-1", "step-6-2"]


def test_a_replaced_learner_deletes_nothing_that_its_successor_needs(tmp_path: Path) -> None:
    old = learner(tmp_path)
    save(old, 2)
    save(old, 4)
    new = learner(tmp_path)
    save(new, 6)
    (tmp_path / "latest.1").write_text("step-8-1")
    (tmp_path / "step-8-1").mkdir()
    old.prune(1)
    assert {"step-4-1", "step-6-2"} <= {path.name for path in tmp_path.glob("step-*")}


DAMAGE: dict[str, Callable[[Path], object]] = {
    "lost": lambda path: path.unlink(missing_ok=True),
    "empty": lambda path: path.write_bytes(b""),
    "nonsense": lambda path: path.write_text("nonsense"),
    "no text": lambda path: path.write_bytes(b"\xff\xfe"),
    "too deep": lambda path: path.write_text("[" * 100_000),
    "of another learner": lambda path: path.write_text('{"parent": "step-9-9"}'),
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("which", ["latest.1", "latest.2", "claims/1", "claims/2", "claims/7", "*"])
def test_whatever_becomes_of_pointers_and_claims_the_newest_checkpoint_is_continued_and_kept(
    tmp_path: Path, which: str, damage: str
) -> None:
    first = learner(tmp_path)
    save(first, 2)
    second = learner(tmp_path)
    save(second, 4)
    save(second, 6)
    files = [tmp_path / which] if which != "*" else [*tmp_path.glob("latest.*"), *tmp_path.glob("claims/*")]
    for path in files:
        DAMAGE[damage](path)
    third = learner(tmp_path)
    assert third.claimed.incarnation > 2, "a number is never used twice"
    assert list(third.lineage()) == ["step-6-2", "step-4-2", "step-2-1"]
    third.continue_from("step-6-2")
    save(third, 8)
    third.prune(2)
    assert left(tmp_path) == ["step-6-2", f"step-8-{third.claimed.incarnation}"]


def test_a_first_checkpoint_without_its_pointer_is_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = learner(tmp_path)
    monkeypatch.setenv(VARIABLE, "commit.before_pointer:2")
    assert in_child(lambda: save(first, 2)) == -signal.SIGKILL
    assert list(learner(tmp_path).lineage()) == ["step-2-1"]


def test_copied_checkpoints_alone_are_a_run(tmp_path: Path) -> None:
    for name in ("step-5-1", "step-10-2", "step-5-2"):
        (tmp_path / name).mkdir()
    store = learner(tmp_path)
    assert store.claimed.incarnation == 3
    assert list(store.lineage()) == ["step-10-2", "step-5-2", "step-5-1"]


def test_nothing_is_deleted_that_no_own_checkpoint_replaces(tmp_path: Path) -> None:
    """A learner that was given no ancestor, for whatever reason, deletes only what lies behind its own."""
    for name in ("step-5-1", "step-10-1", "step-15-1", "step-5-1.tmp", "step-foreign"):
        (tmp_path / name).mkdir()
    store = learner(tmp_path)
    store.continue_from("")
    save(store, 6)
    store.prune(1)
    assert left(tmp_path) == ["step-10-1", "step-15-1", "step-6-2", "step-foreign"]


def left(root: Path) -> list[str]:
    return sorted(path.name for path in root.glob("step-*"))


def test_learners_on_copies_of_the_storage_differ(tmp_path: Path) -> None:
    claims = [learner(tmp_path / name).claimed for name in ("one", "copy")]
    assert claims[0].incarnation == claims[1].incarnation and claims[0].nonce != claims[1].nonce


def test_a_claim_is_never_seen_without_its_content(tmp_path: Path) -> None:
    store = learner(tmp_path)
    assert json.loads((tmp_path / "claims" / "1").read_text())["parent"] == ""
    assert [path.name for path in (tmp_path / "claims").iterdir()] == ["1"]
    assert store.newest_claim() == 1


def test_controllers_survive_whatever_they_hold(tmp_path: Path) -> None:
    store = learner(tmp_path)
    name = store.begin(2)
    state = state_of(2).model_copy(update={"controllers": {"reset": {"best": float("-inf")}}})
    store.finish(name, state, {})
    assert store.state(name) == state
    assert FileFacts.model_validate(store.files(name)[STATE].model_dump()).size_bytes > 0


def test_a_claim_that_is_its_own_parent_says_nothing(tmp_path: Path) -> None:
    store = learner(tmp_path)
    (tmp_path / "claims" / "1").write_text('{"parent": "step-2-1"}')
    assert list(store.lineage()) == []
