"""The first steps of every learner, on rank 0: it claims a number, and chooses what it goes on from."""

from dataclasses import dataclass, replace
from pathlib import Path

from isentrope.learner import json_files
from isentrope.learner.intake.ledger import LedgerState
from isentrope.learner.objective.objective import Objective
from isentrope.learner.records import Outcome
from isentrope.learner.training.beginning import start_from_another
from isentrope.learner.training.checkpoint_store import CHECKPOINTS, CheckpointState, CheckpointStore, Claim
from isentrope.learner.training.checkpointer import Start, choose_start, stored, trace_elsewhere
from isentrope.learner.training.job import LearnerJob
from isentrope.learner.training.rank_group import RankGroup
from isentrope.rollout.wire.control import Mode


@dataclass(frozen=True, slots=True)
class Opening:
    """A run folder that a learner has claimed, and the state it goes on from."""

    store: CheckpointStore
    claim: Claim
    start: Start

    def started_as(self, state: CheckpointState) -> "Opening":
        """Return the same with another state to go on from."""
        return replace(self, start=replace(self.start, state=state))


def new_state(job: LearnerJob, objective: Objective, mode: Mode, data_digest: str) -> CheckpointState:
    """Return the state of a run in which nothing was trained."""
    return CheckpointState(
        config_digest=job.spec.config_digest,
        data_digest=data_digest,
        mode=mode,
        ledger=LedgerState(),
        controllers=stored(objective.start()),
    )


def open_folder(job: LearnerJob, ranks: RankGroup, new: CheckpointState, committed: str) -> Opening:
    """Claim the folder of a run, remove its outcome, and choose the checkpoint to go on from, or `new`.

    committed: checkpoint that the broker knows of; empty: none.

    Raises:
        StorageError, RunFolderError: as those of `choose_start`.
        ConfigError, StorageError: as those of `start_from_another`.
    """
    output_dir = Path(job.spec.output_dir)
    store = CheckpointStore(output_dir / CHECKPOINTS)
    trace = trace_elsewhere(store, output_dir, committed)
    claim = store.claim()
    json_files.remove(output_dir, Outcome)
    start = choose_start(store, ranks, new, trace)
    if start.is_new and job.config.begin_from:
        start = start_from_another(job, ranks, new)
    return Opening(store, claim, start)
