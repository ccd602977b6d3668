"""A disk that is full at any page of what a learner writes, and one that stalls: nothing is torn, nothing is lost."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from feeding import Actor, P, Run, assert_exactly_once, finish, running
from kept_batches import AROUND, Disk, make_batch
from run_records import make_outcome, make_row
from small_disk import PAGE, leave_free, on_small_disk
from waits import wait_until

from isentrope.errors import StorageError
from isentrope.learner import json_files
from isentrope.learner.intake.feeder import CommitFacts
from isentrope.learner.intake.ledger import LedgerState
from isentrope.learner.records import BatchRow, Outcome
from isentrope.learner.training import checkpoint_store
from isentrope.learner.training.checkpoint_store import CheckpointState, CheckpointStore, FileFacts, facts_of, verify
from isentrope.learner.training.checkpointer import Checkpointer
from isentrope.learner.training.group_store import GroupKeeper, KeptBatches, read_batch
from isentrope.learner.training.journal import Journal
from isentrope.rollout.wire.control import Mode
from isentrope.rollout.wire.files import write_whole
from isentrope.rollout.wire.types import version_of

PAGES = 64
"""Pages of the disk: beyond what is written in all."""

FULL_AT = range(16)
"""Free pages of a full disk, one number for each batch: from none to more than a batch writes."""

SHARD = "shard.pt"


def state_of(batch: int) -> CheckpointState:
    ledger = LedgerState(lwm=batch, trained=batch, batches=batch)
    return CheckpointState(config_digest="c", data_digest="d", mode=Mode.ASYNC, ledger=ledger)


def facts_at(batch: int) -> CommitFacts:
    return CommitFacts(state_of(batch).ledger, batch, ("1-0",), (batch,))


class Ranks:
    """Ranks whose share of a checkpoint is a file of three pages."""

    def save(self, folder: Path, batch: int) -> dict[str, FileFacts]:
        (folder / SHARD).write_bytes(bytes([batch]) * 3 * PAGE)
        return {SHARD: facts_of(folder / SHARD)}


class Broker:
    """A broker that notes which checkpoints it was told of."""

    def __init__(self) -> None:
        self.committed: list[int] = []

    def commit(self, facts: CommitFacts, ckpt: str) -> None:
        self.committed.append(facts.ledger.batches)


class Learner:
    """What a learner writes in the folder of its run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = CheckpointStore(folder / "checkpoints")
        self.store.claim()
        self.checkpointer = Checkpointer(self.store, Ranks(), keep=1)
        self.keeper = GroupKeeper(folder, 1, Disk())
        self.rows = Journal(folder, BatchRow)
        self.broker = Broker()

    def write(self, batch: int) -> None:
        """Write all that is due after a batch, as far as the disk lets it."""
        self.keeper.keep(make_batch(batch), AROUND)
        self.rows.append(make_row(batch))
        self.checkpointer.save(state_of(batch), facts_at(batch), self.broker)
        with suppress(OSError, StorageError):
            json_files.write(self.folder, make_outcome(batches=batch))

    def require_whole(self) -> None:
        """Require that whatever has its final name is whole, and the newest checkpoint is what the broker knows."""
        newest = next(self.store.lineage(), None)
        if newest is not None:
            files = self.store.files(newest)
            assert verify(self.store.folder(newest), files, sorted(files)) == ""
        assert (newest is None) == (not self.broker.committed)
        assert newest in (None, f"step-{self.broker.committed[-1] if self.broker.committed else 0}-1")
        for path in KeptBatches(self.folder).folder.glob("*-1"):
            read_batch(path)
        json_files.read(self.folder, Outcome)
        assert all(line.endswith(b"}") for line in (self.folder / BatchRow.FILE).read_bytes().splitlines())


def fill_again_and_again(folder: Path) -> dict[str, Any]:
    """Write batches of which each meets a disk with another number of free pages, and is written again with room."""
    learner, filler, refused = Learner(folder), folder / "filler", list[int]()
    (folder / BatchRow.FILE).touch()
    for batch, pages in enumerate(FULL_AT, 1):
        leave_free(filler, pages)
        learner.write(batch)
        learner.require_whole()
        if batch not in learner.broker.committed:
            refused.append(batch)
        filler.unlink()
        learner.checkpointer.save(state_of(batch), facts_at(batch), learner.broker)
        learner.require_whole()
    learner.write(len(FULL_AT) + 1)
    learner.require_whole()
    outcome = json_files.read(folder, Outcome)
    return {
        "refused": refused,
        "committed": learner.broker.committed,
        "rows": [row.batch for row in learner.rows.rows()],
        "kept": sorted(int(path.name.partition("-")[0]) for path in (folder / "groups").glob("*-1")),
        "unfinished": [path.name for path in folder.rglob("*.tmp")],
        "outcome": outcome.batches if outcome is not None else -1,
    }


def test_a_disk_that_is_full_at_any_page_tears_nothing_and_what_it_refused_is_written_later(tmp_path: Path) -> None:
    seen = on_small_disk(tmp_path, PAGES, lambda: fill_again_and_again(tmp_path))
    every = list(range(1, len(FULL_AT) + 2))
    assert seen["refused"] and len(seen["refused"]) < len(FULL_AT), "the disk was full for some, and not for others"
    assert (seen["committed"], seen["rows"], seen["kept"]) == (every, every, every)
    assert (seen["unfinished"], seen["outcome"]) == ([], every[-1])


@pytest.fixture
def run(redis_server: str, run_name: str) -> Iterator[Run]:
    with running(redis_server, run_name) as run:
        yield run


def test_a_disk_that_stalls_holds_up_neither_orders_nor_groups(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The delay is that of the one writer of all small files; it lasts until the feeder has gone on meanwhile."""
    learner, actor = run.learner(), run.actor()
    actor.work(P, version_of(1, 0))
    learner.train(learner.next())
    stalled = list[str]()

    def stall(path: Path, data: bytes | str, *, durable: bool) -> None:
        rounds = learner.port.rounds
        wait_until(lambda: learner.port.rounds >= rounds + 2, "rounds of the feeder")
        if not stalled:
            works_meanwhile(actor)
        stalled.append(path.name)
        write_whole(path, data, durable=durable)

    store = CheckpointStore(tmp_path)
    store.claim()
    monkeypatch.setattr(checkpoint_store, "write_whole", stall)
    Checkpointer(store, Ranks(), keep=1).save(state_of(1), learner.feeder.commit_facts(), learner.feeder)
    assert stalled[-1].startswith("latest.") and next(store.lineage()) == "step-1-1"
    learner.settle(P)
    finish(learner, actor, run.batches)
    assert_exactly_once(run, learner)


def works_meanwhile(actor: Actor) -> None:
    actor.work(P, version_of(1, 1))
