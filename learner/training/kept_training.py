"""A run that trains the groups another run has kept, batch by batch as they were planned there.

Every rank runs `train_kept`; nothing is asked of a broker or an actor. The run has a folder of its own, with everything
that a run leaves: lines, checkpoints, a version of its weights at its end. The ledger of its checkpoints holds the
chain of the kept plans, by which a later start knows that it goes on with the same groups.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from isentrope.errors import ConfigError, FencedError, IsentropeError, RunFolderError
from isentrope.learner.intake.buffer import ReadyBatch
from isentrope.learner.intake.intake_facts import CommitFacts, FeederStatus
from isentrope.learner.intake.ledger import Ledger
from isentrope.learner.intake.outcomes import Tally
from isentrope.learner.intake.retirement import NONFINITE, LengthCounts
from isentrope.learner.objective.objective import Objective
from isentrope.learner.records import Outcome
from isentrope.learner.training.batch_steps import BatchSteps, Step
from isentrope.learner.training.checkpointer import Start
from isentrope.learner.training.function_rewards import of_groups
from isentrope.learner.training.group_store import KeptBatch, read_batch, read_record
from isentrope.learner.training.job import LearnerJob
from isentrope.learner.training.main import open_ranks
from isentrope.learner.training.metrics import Surroundings
from isentrope.learner.training.notices import noticed
from isentrope.learner.training.opening import new_state, open_folder
from isentrope.learner.training.rank_group import RankGroup
from isentrope.learner.training.sinks import Sink, TensorBoard
from isentrope.rollout.wire.control import Mode
from isentrope.rollout.wire.weights import prune

logger = logging.getLogger(__name__)


class Stop(Protocol):
    """Switch by which the run is asked to end after its batch."""

    def is_set(self) -> bool: ...


def train_kept(job: LearnerJob, batches: Sequence[Path], stop: Stop) -> None:
    """Train kept batches, from the newest checkpoint of the job's folder or from the model, and write the outcome.
    Every rank calls this; errors that end the run are in the outcome.

    Args:
        job: the run; there is no broker at its URL.
        batches: the kept batches of another run, the first one first, at least as many as the run is to train.
        stop: asked before each batch.

    Raises:
        FencedError: a newer learner has the folder. OutcomeError: the outcome cannot be written.
    """
    collectives, objective, ranks = open_ranks(job)
    if collectives.rank:
        ranks.follow()
        return
    try:
        _conduct(job, batches, stop, objective, ranks)
    finally:
        ranks.end()


def _conduct(job: LearnerJob, batches: Sequence[Path], stop: Stop, objective: Objective, ranks: RankGroup) -> None:
    output_dir = Path(job.spec.output_dir)
    run: _Run | None = None
    with noticed(output_dir):
        try:
            run = _open(job, batches, objective, ranks)
            ended = run.conduct(stop)
        except FencedError:
            raise
        except IsentropeError as error:
            logger.error("%s", error)
            ended = (Outcome.of_nothing() if run is None else run.outcome()).ended_by(error)
    ended.write(output_dir)


def _open(job: LearnerJob, batches: Sequence[Path], objective: Objective, ranks: RankGroup) -> "_Run":
    opening = open_folder(job, ranks, new_state(job, objective, Mode.ASYNC, job.spec.data_digest), "")
    start, config = opening.start, job.config
    _require_same_groups(start, batches)
    ranks.build(start.folder, objective.refreshed_at(start.state.controllers), begins=start.begins)
    sinks: list[Sink] = [TensorBoard(Path(job.spec.output_dir) / "tensorboard")] if config.tensorboard else []
    return _Run(job, batches, start, BatchSteps(job, opening, ranks, sinks))


def _require_same_groups(start: Start, batches: Sequence[Path]) -> None:
    """Refuse a checkpoint that was not trained from the first of these batches."""
    done = start.state.ledger.batches
    if not done:
        return
    if len(batches) < done or read_record(batches[done - 1]).plan.after != start.state.ledger.chain:
        raise RunFolderError(
            f"the checkpoint of batch {done} was not trained from the groups in {batches[0].parent}",
            where=str(start.folder),
            fix="name the run whose groups it was trained from by --groups, or choose another run.output_dir",
        )


class _NoBroker:
    """Nobody is told of a checkpoint."""

    def commit(self, facts: CommitFacts, ckpt: str) -> None:
        pass


class _Run:
    """One learner's run, from its first batch to the end."""

    def __init__(self, job: LearnerJob, batches: Sequence[Path], start: Start, steps: BatchSteps) -> None:
        self._job = job
        self._batches = batches
        self._start = start
        self._steps = steps
        self._ledger = Ledger(start.state.ledger)
        self._skipped = LengthCounts()
        self._steps.log.rewind(-1 if start.is_new else self._ledger.batches, None)
        self._steps.untrained.start(self._intake())

    def conduct(self, stop: Stop) -> Outcome:
        """Train until all batches are done, an alarm ends the run, or it is asked to end."""
        try:
            if self._start.begins:  # from now on the other run's checkpoint is not needed
                self._save()
            while self._ledger.batches < self._job.config.batches and self._steps.alarm is None and not stop.is_set():
                self._train(read_batch(self._batches[self._ledger.batches]))
            self._save()
            finished = self._ledger.batches >= self._job.config.batches and self._steps.alarm is None
            ended = self.outcome(finished=finished, version=self._publish())
            return ended if self._steps.alarm is None else ended.ended_by(self._steps.alarm)
        finally:
            self._steps.close()

    def outcome(self, *, finished: bool = False, version: int = 0) -> Outcome:
        """Return how the run ends if it ends now."""
        return Outcome.of_nothing().model_copy(
            update={
                "status": "finished" if finished else "stopped",
                "incarnation": self._steps.publisher.incarnation,
                "batches": self._ledger.batches,
                "version": version,
                "trained": self._ledger.trained,
                "retired": dict(self._ledger.reasons),
                "issued": self._ledger.trained + self._ledger.retired,
                "total_s": self._steps.watch.total_s,
            }
        )

    def _train(self, kept: KeptBatch) -> None:
        """Train one batch and do all that is due after it."""
        plan = kept.record.plan
        _require_vocabulary(kept, self._job)
        step = self._steps.train(ReadyBatch(plan, kept.groups, replayed=False), Mode.ASYNC, _newest_version(kept))
        if self._steps.take(step):
            self._ledger.train(plan)
            rewards = of_groups(self._job.spec.data, kept.groups)
            around = Surroundings(Mode.ASYNC, self._intake(), 0, 0, rewards, None, self._job.config.ranks)
            self._steps.write(step, around)
        else:
            self._skip(step)
        if self._ledger.batches % self._job.config.checkpoint_every == 0:
            self._save()

    def _skip(self, step: Step) -> None:
        """Record a batch of which no update had a finite loss and gradient as skipped."""
        logger.warning("batch %d has no finite update and is skipped", step.ready.record.batch)
        if self._steps.keeper is not None:
            self._steps.keeper.keep(step.ready, step.around, skipped=True)
        self._ledger.skip(step.ready.record, NONFINITE)
        for group in step.ready.groups:
            self._skipped.add(NONFINITE, (len(response.tokens) for response in group.responses))
        self._steps.require_finite(step.ready.record.batch)

    def _intake(self) -> FeederStatus:
        """Return the progress: every group comes from the folder, and each is trained or skipped."""
        return FeederStatus(
            ready=0,
            issued=self._ledger.trained + self._ledger.retired,
            trained=self._ledger.trained,
            retired=dict(self._ledger.reasons),
            failed={},
            retired_whole=self._skipped.copy(),
            idle_s=0.0,
            quiet_s=0.0,
            replaced=Tally(),
        )

    def _save(self) -> None:
        ledger = self._ledger.state()
        state = self._start.state.model_copy(update={"ledger": ledger, "controllers": self._steps.controllers})
        with self._steps.watch("checkpoint_s"):
            self._steps.checkpointer.save(state, CommitFacts(ledger, ledger.lwm, (), ()), _NoBroker())

    def _publish(self) -> int:
        """Write the weights as a version, which is returned, and delete earlier ones."""
        version = self._steps.publisher.write(self._ledger.batches).version
        prune(self._job.spec.output_dir, {version})
        return version


def _newest_version(kept: KeptBatch) -> int:
    """Return the version whose tokens count as the policy's own: that of the model, before anything is trained. What
    the other run sampled later is of its weights, not of these."""
    return kept.record.circumstances.newest_version if kept.record.plan.batch == 1 else 0


def _require_vocabulary(kept: KeptBatch, job: LearnerJob) -> None:
    tokens = [
        each
        for group in kept.groups
        for each in (group.prompt, *(it.tokens for it in group.responses), *(it.tokens for it in group.demonstrations))
    ]
    if (largest := max(int(each.max(initial=0)) for each in tokens)) >= job.spec.vocab_size:
        raise ConfigError(
            f"token {largest} of batch {kept.record.plan.batch} is not of this model, which has {job.spec.vocab_size}",
            where="model.path",
            fix="train a model with the tokenizer of the run that has kept the groups",
        )
