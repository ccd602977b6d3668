"""A run that trains the groups another run has kept, batch by batch as they were planned there.

Every rank runs `train_kept`; nothing is asked of a broker or an actor. The run has a folder of its own, with everything
that a run leaves: lines, checkpoints, a version of its weights at its end. The ledger of its checkpoints holds the
chain of the kept plans, by which a later start knows that it goes on with the same groups.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from isentrope.errors import AlarmError, ConfigError, FencedError, InternalError, IsentropeError, RunFolderError
from isentrope.learner import json_files
from isentrope.learner.intake.buffer import ReadyBatch
from isentrope.learner.intake.intake_facts import CommitFacts, FeederStatus
from isentrope.learner.intake.ledger import Ledger, LedgerState
from isentrope.learner.intake.outcomes import Tally
from isentrope.learner.intake.ragged import RaggedBatch
from isentrope.learner.objective.objective import Objective
from isentrope.learner.records import Outcome
from isentrope.learner.training.alarms import Alarms, bounds_in_force
from isentrope.learner.training.canary import tokens_of
from isentrope.learner.training.checkpoint_store import CHECKPOINTS, CheckpointState, CheckpointStore
from isentrope.learner.training.checkpointer import Checkpointer, Start, choose_start, stored, trace_elsewhere
from isentrope.learner.training.circumstances import Circumstances
from isentrope.learner.training.function_rewards import of_groups
from isentrope.learner.training.group_store import GroupKeeper, KeptBatch, read_batch, read_record
from isentrope.learner.training.job import LearnerJob
from isentrope.learner.training.main import open_ranks
from isentrope.learner.training.metrics import Accounts, BatchLog, Surroundings
from isentrope.learner.training.notices import noticed
from isentrope.learner.training.publisher import Publisher
from isentrope.learner.training.rank_group import RankGroup
from isentrope.learner.training.sinks import Sink, TensorBoard
from isentrope.learner.training.stopwatch import Stopwatch
from isentrope.learner.training.untrained import UntrainedCounts
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


@dataclass(frozen=True, slots=True)
class _Parts:
    """The parts of a run on rank 0."""

    job: LearnerJob
    batches: Sequence[Path]
    ranks: RankGroup
    start: Start
    publisher: Publisher
    keeper: GroupKeeper | None
    """None: no groups are kept."""
    checkpointer: Checkpointer
    sinks: list[Sink]


def _open(job: LearnerJob, batches: Sequence[Path], objective: Objective, ranks: RankGroup) -> "_Run":
    spec, config = job.spec, job.config
    output_dir = Path(spec.output_dir)
    store = CheckpointStore(output_dir / CHECKPOINTS)
    trace = trace_elsewhere(store, output_dir, "")
    claim = store.claim()
    json_files.remove(output_dir, Outcome)
    new = CheckpointState(
        config_digest=spec.config_digest,
        data_digest=spec.data_digest,
        mode=Mode.ASYNC,
        ledger=LedgerState(),
        controllers=stored(objective.start()),
    )
    start = choose_start(store, ranks, new, trace)
    _require_same_groups(start, batches)
    ranks.build(start.folder, objective.refreshed_at(start.state.controllers))
    keeper = GroupKeeper(output_dir, claim.incarnation, ranks) if config.retain == "groups" else None
    return _Run(
        _Parts(
            job=job,
            batches=batches,
            ranks=ranks,
            start=start,
            publisher=Publisher(ranks, spec, claim.incarnation, job.weights.keep, config.stall_timeout_s),
            keeper=keeper,
            checkpointer=Checkpointer(store, keeper or ranks, config.keep_checkpoints),
            sinks=[TensorBoard(output_dir / "tensorboard")] if config.tensorboard else [],
        )
    )


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

    def __init__(self, parts: _Parts) -> None:
        self._parts = parts
        self._config = parts.job.config
        self._ledger = Ledger(parts.start.state.ledger)
        self._controllers = parts.start.state.controllers
        self._watch = Stopwatch()
        bounds = bounds_in_force(self._config.alarms, parts.job.spec.model.dtype)
        accounts = Accounts(None, UntrainedCounts(), Alarms(bounds, self._config.alarms.window))
        self._log = BatchLog(Path(parts.job.spec.output_dir), parts.sinks, self._watch, accounts)
        self._log.rewind(-1 if parts.start.folder is None else self._ledger.batches, None)
        self._alarm: AlarmError | None = None

    def conduct(self, stop: Stop) -> Outcome:
        """Train until all batches are done, an alarm ends the run, or it is asked to end."""
        try:
            while self._ledger.batches < self._config.batches and self._alarm is None and not stop.is_set():
                self._train(read_batch(self._parts.batches[self._ledger.batches]))
            self._save()
            finished = self._ledger.batches >= self._config.batches and self._alarm is None
            ended = self.outcome(finished=finished, version=self._publish())
            return ended if self._alarm is None else ended.ended_by(self._alarm)
        finally:
            for sink in self._parts.sinks:
                sink.close()

    def outcome(self, *, finished: bool = False, version: int = 0) -> Outcome:
        """Return how the run ends if it ends now."""
        return Outcome.of_nothing().model_copy(
            update={
                "status": "finished" if finished else "stopped",
                "incarnation": self._parts.publisher.incarnation,
                "batches": self._ledger.batches,
                "version": version,
                "trained": self._ledger.trained,
                "issued": self._ledger.trained,
                "total_s": self._watch.total_s,
            }
        )

    def _train(self, kept: KeptBatch) -> None:
        """Train one batch and do all that is due after it."""
        job, plan = self._parts.job, kept.record.plan
        around = Circumstances.of(job, plan.batch, Mode.ASYNC, self._controllers, _newest_version(kept))
        ragged = around.lay_out(kept.groups, self._ledger.batches, job)
        _require_vocabulary(ragged, job)
        facts = self._parts.ranks.train(ragged, around.schedule, around.controllers)
        if facts.failed:
            raise InternalError(
                f"batch {plan.batch} had no update with finite loss and gradient",
                where=f"batch {plan.batch}",
                fix="see metrics.jsonl; a lower learner.learning_rate often helps",
            )
        if self._parts.keeper is not None:
            self._parts.keeper.keep(ReadyBatch(plan, kept.groups, replayed=False), around)
        self._watch.add("stats_s", facts.statistics_s)
        self._watch.add("update_s", facts.updates_s)
        self._controllers = stored(facts.state)
        self._parts.publisher.canary = tokens_of(ragged)
        self._ledger.train(plan)
        rewards = of_groups(job.spec.data, kept.groups)
        around_it = Surroundings(Mode.ASYNC, self._intake(), 0, 0, rewards, None, self._config.ranks)
        verdict = self._log.write(ragged, facts, around_it)
        for text in verdict.said:
            logger.warning(text)
        if self._config.alarms.action == "stop":
            self._alarm = verdict.error
        if self._ledger.batches % self._config.checkpoint_every == 0:
            self._save()

    def _intake(self) -> FeederStatus:
        """Return the progress: every group comes from the folder, and each is trained."""
        done = self._ledger.trained
        return FeederStatus(
            ready=0,
            issued=done,
            trained=done,
            retired={},
            failed={},
            retired_whole={},
            idle_s=0.0,
            quiet_s=0.0,
            replaced=Tally(),
        )

    def _save(self) -> None:
        ledger = self._ledger.state()
        state = self._parts.start.state.model_copy(update={"ledger": ledger, "controllers": self._controllers})
        with self._watch("checkpoint_s"):
            self._parts.checkpointer.save(state, CommitFacts(ledger, ledger.lwm, (), ()), _NoBroker())

    def _publish(self) -> int:
        """Write the weights as a version, which is returned, and delete earlier ones."""
        version = self._parts.publisher.write(self._ledger.batches).version
        prune(self._parts.job.spec.output_dir, {version})
        return version


def _newest_version(kept: KeptBatch) -> int:
    """Return the version whose tokens count as the policy's own: that of the model, before anything is trained. What
    the other run sampled later is of its weights, not of these."""
    return kept.record.circumstances.newest_version if kept.record.plan.batch == 1 else 0


def _require_vocabulary(ragged: RaggedBatch, job: LearnerJob) -> None:
    largest = int(max(ragged.tokens.max(initial=0), ragged.prompt.max(initial=0)))
    if largest >= job.spec.vocab_size:
        raise ConfigError(
            f"token {largest} of batch {ragged.number + 1} is not of this model, which has {job.spec.vocab_size}",
            where="model.path",
            fix="train a model with the tokenizer of the run that has kept the groups",
        )
