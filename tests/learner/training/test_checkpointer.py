"""Where a learner begins when checkpoints are damaged, foreign or gone; and that a refusing disk costs one, not all."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from toy_run import make_job

from isentrope.errors import RunFolderError, StorageError
from isentrope.learner.intake.intake_facts import CommitFacts
from isentrope.learner.intake.ledger import LedgerState
from isentrope.learner.objective.presets import build, load_objective
from isentrope.learner.training import checkpoint_store
from isentrope.learner.training.checkpoint_store import CheckpointState, CheckpointStore, FileFacts, facts_of
from isentrope.learner.training.checkpointer import MAX_FAILURES, Checkpointer, choose_start
from isentrope.learner.training.collectives import Collectives
from isentrope.learner.training.rank_group import RankGroup
from isentrope.rollout.wire.control import Mode
from isentrope.rollout.wire.files import write_whole

NEW = CheckpointState(config_digest="c", data_digest="d", mode=Mode.ASYNC, ledger=LedgerState())


def state_of(batch: int) -> CheckpointState:
    return NEW.model_copy(update={"ledger": LedgerState(lwm=batch, trained=batch, batches=batch)})


@pytest.fixture
def ranks(alone: Collectives, tmp_path: Path, toy_model: Path) -> RankGroup:
    """A group of one rank, without a network."""
    objective = build(load_objective("grpo", {}, tmp_path), tmp_path, max_new_tokens=8)
    return RankGroup(make_job("run", "unix:///nowhere", toy_model, tmp_path), objective, alone)


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    """Learner 2 of a run with checkpoints of batches 2 and 4."""
    first = CheckpointStore(tmp_path / "checkpoints")
    first.claim()
    for batch in (2, 4):
        name = first.begin(batch)
        shard = first.unfinished(name) / "shard"
        shard.write_bytes(bytes(100))
        first.finish(name, state_of(batch), {"shard": facts_of(shard)})
    second = CheckpointStore(tmp_path / "checkpoints")
    second.claim()
    return second


def damage(store: CheckpointStore, name: str) -> None:
    (store.folder(name) / "shard").write_bytes(bytes(99))


def test_a_new_run_begins_with_nothing(tmp_path: Path, ranks: RankGroup) -> None:
    store = CheckpointStore(tmp_path / "new")
    store.claim()
    assert choose_start(store, ranks, NEW, "").folder is None


def test_the_newest_checkpoint_is_continued(store: CheckpointStore, ranks: RankGroup) -> None:
    start = choose_start(store, ranks, NEW, "")
    assert (start.state, start.folder) == (state_of(4), store.folder("step-4-1"))


def test_a_damaged_one_is_skipped_with_a_warning(
    store: CheckpointStore, ranks: RankGroup, caplog: pytest.LogCaptureFixture
) -> None:
    damage(store, "step-4-1")
    assert choose_start(store, ranks, NEW, "").state == state_of(2)
    assert "step-4-1 is skipped" in caplog.text and "size_bytes=99" in caplog.text


def test_a_missing_manifest_is_skipped_like_any_damage(store: CheckpointStore, ranks: RankGroup) -> None:
    (store.folder("step-4-1") / "manifest.json").unlink()
    assert choose_start(store, ranks, NEW, "").state == state_of(2)


def test_a_run_whose_checkpoints_are_all_damaged_does_not_begin_anew(store: CheckpointStore, ranks: RankGroup) -> None:
    damage(store, "step-4-1")
    damage(store, "step-2-1")
    with pytest.raises(StorageError, match="no checkpoint of learner 2's lineage can be read"):
        choose_start(store, ranks, NEW, "")


@pytest.mark.parametrize("field", ["config_digest", "data_digest"])
def test_another_configuration_or_data_set_is_refused(store: CheckpointStore, ranks: RankGroup, field: str) -> None:
    with pytest.raises(RunFolderError, match="belongs to another"):
        choose_start(store, ranks, NEW.model_copy(update={field: "other"}), "")


@pytest.mark.parametrize("known", ["pointer", "parent", "elsewhere"])
def test_whatever_shows_that_there_was_a_checkpoint_keeps_a_run_from_beginning_anew(
    tmp_path: Path, ranks: RankGroup, known: str
) -> None:
    store = CheckpointStore(tmp_path / "new")
    store.claim()
    if known == "pointer":
        (store.root / "latest.1").write_text("step-2-1")
    if known == "parent":
        (store.root / "claims" / "3").write_text('{"parent": "step-2-1"}')
    with pytest.raises(StorageError, match="there was one") as caught:
        choose_start(store, ranks, NEW, "the broker knows of it" if known == "elsewhere" else "")
    assert caught.value.exit_code == 74


def test_what_was_skipped_as_damaged_does_not_count_as_kept(store: CheckpointStore, ranks: RankGroup) -> None:
    """Else the one that was loaded would be deleted before the damaged one, which may be all that is left."""
    damage(store, "step-4-1")
    choose_start(store, ranks, NEW, "")
    save(store, 3)
    store.prune(2)
    assert left(store) == ["step-2-1", "step-3-2", "step-4-1"]
    save(store, 5)
    store.prune(2)
    assert left(store) == ["step-3-2", "step-5-2"]


def save(store: CheckpointStore, batch: int) -> None:
    store.finish(store.begin(batch), state_of(batch), {})


def left(store: CheckpointStore) -> list[str]:
    return sorted(path.name for path in store.root.glob("step-*"))


class Broker:
    """Stands for the feeder: remembers what may be forgotten."""

    def __init__(self) -> None:
        self.committed: list[CommitFacts] = []

    def commit(self, facts: CommitFacts, ckpt: str) -> None:
        self.committed.append(facts)


class FullDisk:
    """Stands for the ranks on a disk that refuses until `free`."""

    def __init__(self) -> None:
        self.free = False

    def save(self, folder: Path, batch: int) -> dict[str, FileFacts]:
        if self.free:
            return {}
        raise StorageError("checkpoint cannot be written: no space left on device")


@pytest.fixture
def disk() -> Iterator[FullDisk]:
    yield FullDisk()


def facts_at(batch: int) -> CommitFacts:
    return CommitFacts(state_of(batch).ledger, batch, ("1-0",), (batch,))


def test_a_full_disk_costs_a_checkpoint_and_leaves_the_last_one(store: CheckpointStore, disk: FullDisk) -> None:
    checkpointer, broker = Checkpointer(store, disk, keep=2), Broker()
    checkpointer.save(state_of(6), facts_at(6), broker)
    assert broker.committed == []
    assert next(store.lineage()) == "step-4-1"
    assert not list(store.root.glob("*.tmp"))
    disk.free = True
    checkpointer.save(state_of(8), facts_at(8), broker)
    assert broker.committed == [facts_at(8)]
    assert next(store.lineage()) == "step-8-2"


def test_a_disk_that_stays_full_ends_the_run(store: CheckpointStore, disk: FullDisk) -> None:
    checkpointer, broker = Checkpointer(store, disk, keep=2), Broker()
    for batch in range(1, MAX_FAILURES):
        checkpointer.save(state_of(batch), facts_at(batch), broker)
    with pytest.raises(StorageError, match="no space left"):
        checkpointer.save(state_of(MAX_FAILURES), facts_at(MAX_FAILURES), broker)
    assert next(store.lineage()) == "step-4-1"


def test_a_batch_is_saved_once(store: CheckpointStore, disk: FullDisk) -> None:
    disk.free = True
    checkpointer, broker = Checkpointer(store, disk, keep=2), Broker()
    checkpointer.save(state_of(6), facts_at(6), broker)
    checkpointer.save(state_of(6), facts_at(6), broker)
    assert len(broker.committed) == 1


def test_a_batch_whose_pointer_could_not_be_written_is_saved_again(
    store: CheckpointStore, disk: FullDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk.free = True
    checkpointer, broker = Checkpointer(store, disk, keep=2), Broker()
    with monkeypatch.context() as patched:

        def refuse(path: Path, data: bytes | str, *, durable: bool) -> None:
            if path.name.startswith("latest."):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            write_whole(path, data, durable=durable)

        patched.setattr(checkpoint_store, "write_whole", refuse)
        checkpointer.save(state_of(6), facts_at(6), broker)
    assert broker.committed == [] and next(store.lineage()) == "step-6-2", "it is whole, though nothing names it"
    checkpointer.save(state_of(6), facts_at(6), broker)
    assert broker.committed == [facts_at(6)] and next(store.lineage()) == "step-6-2"


def test_a_disk_that_refuses_a_claim_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, data: bytes | str, *, durable: bool) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(checkpoint_store, "write_whole", refuse)
    with pytest.raises(StorageError, match="claim cannot be written: No space left"):
        CheckpointStore(tmp_path).claim()
