"""The step of one batch on rank 0, with all that follows from it wherever its groups come from: those of actors
(`loop.py`) and those that another run has kept (`kept_training.py`) are trained by it alike.

A batch of which no update had a finite loss and gradient is skipped: the weights after it are those before it.
"""

import logging
from dataclasses import dataclass
from pathlib import Path

from isentrope.errors import AlarmError, InternalError
from isentrope.learner.intake.buffer import ReadyBatch
from isentrope.learner.intake.ragged import RaggedBatch
from isentrope.learner.training.alarms import Alarms, bounds_in_force
from isentrope.learner.training.canary import tokens_of
from isentrope.learner.training.checkpointer import Checkpointer, stored
from isentrope.learner.training.circumstances import Circumstances
from isentrope.learner.training.group_store import GroupKeeper
from isentrope.learner.training.job import LearnerJob
from isentrope.learner.training.metrics import Accounts, BatchLog, Draws, Surroundings
from isentrope.learner.training.opening import Opening
from isentrope.learner.training.publisher import Publisher
from isentrope.learner.training.rank_group import RankGroup
from isentrope.learner.training.sinks import Sink
from isentrope.learner.training.stopwatch import Stopwatch
from isentrope.learner.training.trainer import BatchFacts
from isentrope.learner.training.untrained import UntrainedCounts
from isentrope.rollout.wire.control import Mode

MAX_NONFINITE = 3
"""Batches in a row without a finite update that end the run."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Step:
    """One batch as it was trained."""

    ready: ReadyBatch
    around: Circumstances
    ragged: RaggedBatch
    facts: BatchFacts


class BatchSteps:
    """The steps of one learner: the state that goes on from batch to batch, and what writes it."""

    def __init__(
        self, job: LearnerJob, opening: Opening, ranks: RankGroup, sinks: list[Sink], draws: Draws | None = None
    ) -> None:
        """Go on from the state of `opening`; `draws`: None where no group is replaced for its outcome."""
        config, output_dir = job.config, Path(job.spec.output_dir)
        incarnation = opening.claim.incarnation
        self._job = job
        self._ranks = ranks
        self.sinks = sinks
        self.publisher = Publisher(ranks, job.spec, incarnation, job.weights.keep, config.stall_timeout_s)
        self.keeper = GroupKeeper(output_dir, incarnation, ranks) if config.retain == "groups" else None
        """None: no groups are kept."""
        self.checkpointer = Checkpointer(opening.store, self.keeper or ranks, config.keep_checkpoints)
        self.controllers = opening.start.state.controllers
        """State of the objective's controllers."""
        self.watch = Stopwatch()
        self.untrained = UntrainedCounts()
        alarms = Alarms(bounds_in_force(config.alarms, job.spec.model.dtype), config.alarms.window)
        self.log = BatchLog(output_dir, sinks, self.watch, Accounts(draws, self.untrained, alarms))
        self.alarm: AlarmError | None = None
        """The alarm that ends the run."""
        self._nonfinite = 0

    def train(self, ready: ReadyBatch, mode: Mode, newest_version: int) -> Step:
        """Train a batch; `newest_version`: the newest version that counts as announced."""
        batch = ready.record.batch
        around = Circumstances.of(self._job, batch, mode, self.controllers, newest_version)
        ragged = around.lay_out(ready.groups, batch - 1, self._job)
        return Step(ready, around, ragged, self._ranks.train(ragged, around.schedule, around.controllers))

    def take(self, step: Step) -> bool:
        """Go on from a step. False: no update of it was finite, and nothing has changed.

        Raises:
            StorageError: the groups can be kept neither on the disk nor in memory.
        """
        if step.facts.failed:
            self._nonfinite += 1
            return False
        if self.keeper is not None:
            self.keeper.keep(step.ready, step.around)
        self._nonfinite = 0
        self.watch.add("stats_s", step.facts.statistics_s)
        self.watch.add("update_s", step.facts.updates_s)
        self.controllers = stored(step.facts.state)
        self.publisher.canary = tokens_of(step.ragged)
        return True

    def require_finite(self, batch: int) -> None:
        """Raise InternalError if too many batches in a row, `batch` the last of them, had no finite update."""
        if self._nonfinite == MAX_NONFINITE:
            raise InternalError(
                f"{MAX_NONFINITE} batches in a row had no update with finite loss and gradient",
                where=f"batch {batch}",
                fix="see metrics.jsonl; a lower learner.learning_rate often helps",
            )

    def close(self) -> None:
        """Close the sinks."""
        for sink in self.sinks:
            sink.close()

    def write(self, step: Step, around: Surroundings) -> None:
        """Write the line of a batch that was trained, and its alarms."""
        verdict = self.log.write(step.ragged, step.facts, around)
        for text in verdict.said:
            logger.warning(text)
        if self._job.config.alarms.action == "stop":
            self.alarm = verdict.error
