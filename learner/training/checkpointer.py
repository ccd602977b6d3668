"""Checkpoints on rank 0: saves them, tolerates failed writes, and chooses the one a learner continues from.

Exactly-once depends on the order of the steps: shards, manifest, name, pointer, and only then the broker.
"""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from isentrope.errors import RunFolderError, StorageError
from isentrope.learner.intake.intake_facts import CommitFacts
from isentrope.learner.objective.objective import ControllerStates
from isentrope.learner.records import BatchRow
from isentrope.learner.training.checkpoint_store import CheckpointState, CheckpointStore, FileFacts
from isentrope.learner.training.fault_points import crash_point

MAX_FAILURES = 3
"""Failed writes in a row that end the run."""

logger = logging.getLogger(__name__)


class Verifier(Protocol):
    """Reader of a checkpoint's files: `RankGroup`."""

    def check(self, folder: Path, files: Mapping[str, FileFacts]) -> str: ...


class Writer(Protocol):
    """Writer of tensors: `RankGroup`."""

    def save(self, folder: Path, batch: int) -> dict[str, FileFacts]: ...


class Committer(Protocol):
    """Reporter of durable checkpoints to the broker: `Feeder`."""

    def commit(self, facts: CommitFacts, ckpt: str) -> None: ...


@dataclass(frozen=True, slots=True)
class Start:
    """The state a learner begins with."""

    state: CheckpointState
    folder: Path | None
    """Tensors; None: those of the model itself."""
    begins: bool = False
    """True if the tensors are another run's, with which this one begins."""

    @property
    def is_new(self) -> bool:
        """True if this run has no checkpoint of its own."""
        return self.folder is None or self.begins


def choose_start(store: CheckpointStore, ranks: Verifier, new: CheckpointState, trace: str) -> Start:
    """Return the newest checkpoint of the claimed lineage whose every byte is right; `new` if there never was one.

    `trace` is what shows elsewhere that there was one; empty: nothing does.

    Raises:
        StorageError: there were checkpoints, and none of them can be read.
        RunFolderError: the checkpoint is of another configuration or other data.
    """
    for name in store.lineage():
        try:
            state = _verified(name, store, ranks)
        except StorageError as error:
            logger.warning("checkpoint %s is skipped: %s (%s)", name, error.what, error.where)
            continue
        _require_same_run(name, state, new)
        logger.info("continuing from checkpoint %s", name)
        store.continue_from(name)
        return Start(state, store.folder(name))
    if found := store.trace() or trace:
        raise StorageError(
            f"no checkpoint of learner {store.claimed.incarnation}'s lineage can be read, but there was one: {found}",
            where=str(store.root),
            fix="restore the folder, or start again with another run.output_dir and run.name",
        )
    return Start(new, None)


def trace_elsewhere(store: CheckpointStore, output_dir: Path, committed: str) -> str:
    """Return what shows, outside the folder of checkpoints, that there was one; empty: nothing does. Call it before a
    number is claimed; `committed` is what the broker knows."""
    if committed:
        return f"the broker knows of {committed}"
    lines = output_dir / BatchRow.FILE
    if not store.has_claims() and lines.exists() and lines.stat().st_size:
        return f"{lines} tells of batches, and no learner has left its claim"
    return ""


class Checkpointer:
    """The checkpoints that one learner writes."""

    def __init__(self, store: CheckpointStore, ranks: Writer, keep: int) -> None:
        """Keep the newest `keep` checkpoints."""
        self._store = store
        self._ranks = ranks
        self._keep = keep
        self._failures = 0
        self._saved = -1

    def save(self, state: CheckpointState, facts: CommitFacts, feeder: Committer) -> None:
        """Save a checkpoint of `state`, whose ledger is that of `facts`; the broker then deletes the entries it covers.

        Does nothing if the newest checkpoint is of this batch. A failed write costs the checkpoint, not the run: the
        next one covers the same.

        Raises:
            StorageError: the third failed write in a row.
        """
        batch = state.ledger.batches
        if batch == self._saved:
            return
        try:
            name = self._write(state, batch)
        except StorageError as error:
            self._failures += 1
            if self._failures == MAX_FAILURES:
                raise
            logger.warning("no checkpoint of batch %d: %s", batch, error.what)
            return
        self._failures, self._saved = 0, batch
        crash_point("commit.before_script", batch)
        feeder.commit(facts, json.dumps({"batch": batch, "lwm": facts.lwm, "folder": str(self._store.folder(name))}))
        crash_point("commit.after_script", batch)
        self._store.prune(self._keep)

    def _write(self, state: CheckpointState, batch: int) -> str:
        name = self._store.begin(batch)
        try:
            self._store.finish(name, state, self._ranks.save(self._store.unfinished(name), batch))
        except OSError as error:
            self._store.discard(name)
            raise error if isinstance(error, StorageError) else StorageError(str(error)) from error
        return name


def _verified(name: str, store: CheckpointStore, ranks: Verifier) -> CheckpointState:
    if problem := ranks.check(store.folder(name), store.files(name)):
        raise StorageError(problem, where=name)
    return store.state(name)


def _require_same_run(name: str, state: CheckpointState, new: CheckpointState) -> None:
    for field, what in (("config_digest", "configuration"), ("data_digest", "data set")):
        if getattr(state, field) != getattr(new, field):
            raise RunFolderError(
                f"checkpoint {name} belongs to another {what}",
                where=f"{field}: {getattr(state, field)[:12]} there, {getattr(new, field)[:12]} here",
                fix="go back to it, or choose another run.output_dir",
            )


def stored(states: ControllerStates) -> dict[str, dict[str, float]]:
    """Return the state of the controllers as a checkpoint holds it."""
    return {name: dict(numbers) for name, numbers in states.items()}
