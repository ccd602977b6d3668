"""Rank 0's care for checkpoints: makes one durable step by step, and puts up with a disk that refuses now and then.

The order of the steps is what exactly-once rests on: shards, manifest, name, pointer, and only then the broker.
"""

import json
import logging
from pathlib import Path
from typing import Protocol

from isentrope.errors import StorageError
from isentrope.learner.intake.feeder import CommitFacts
from isentrope.learner.training.checkpoint_store import FileFacts, State, Store
from isentrope.learner.training.fault_points import crash_point

MAX_FAILURES = 3
"""Checkpoints in a row that the disk may refuse."""

logger = logging.getLogger(__name__)


class Writer(Protocol):
    """Writes tensors: `Team`."""

    def save(self, folder: Path, batch: int) -> dict[str, FileFacts]: ...


class Committer(Protocol):
    """Tells the broker: `Feeder`."""

    def commit(self, facts: CommitFacts, ckpt: str) -> None: ...


class Saver:
    """The checkpoints of one learner."""

    def __init__(self, store: Store, team: Writer, keep: int) -> None:
        """`keep`: how many checkpoints stay."""
        self._store = store
        self._team = team
        self._keep = keep
        self._failures = 0
        self._saved = -1

    def save(self, state: State, facts: CommitFacts, feeder: Committer) -> None:
        """Make a checkpoint of `state`, whose ledger is that of `facts`, and let the broker forget what it covers.

        Nothing is done if the newest checkpoint is of this batch. A refusing disk costs the checkpoint, not the run:
        the next one covers the same. StorageError at the third.
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

    def _write(self, state: State, batch: int) -> str:
        name = self._store.begin(batch)
        try:
            self._store.finish(name, state, self._team.save(self._store.unfinished(name), batch))
        except OSError as error:
            self._store.discard(name)
            raise error if isinstance(error, StorageError) else StorageError(str(error)) from error
        return name
