"""The training loop, on rank 0. The other ranks follow its orders (`rank_group.py`); all of them enter by `main.py`.

1. Claim a learner's number, choose a checkpoint, fence the broker, build the network.
2. Publish the weights, start the feeder, evaluate a new run.
3. Until all batches are trained or an operator stops the run: wait for a batch, train it, write its row; publish,
   evaluate and save when due.
4. Evaluate, save, tell the actors to leave.

| it waits for | which ends when | at most |
|---|---|---|
| a batch's groups | actors publish them and the feeder's thread admits them | `stall_timeout_s` |
| answers of an evaluation | actors load its version and publish them, or a stop is asked for | `stall_timeout_s` |
| the version before | the ranks' threads have written it | `stall_timeout_s` |
| a version, if on-policy | it is written, and every actor serves it or is gone, or as above | `stall_timeout_s` |
| the broker | it serves again | `redis.timeout_s` |
| the other ranks | each reaches the same collective | `collective_timeout_s` |
"""

import logging
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from isentrope.errors import FencedError, IsentropeError
from isentrope.learner.intake.admission import AdmissionRules
from isentrope.learner.intake.buffer import ReadyBatch
from isentrope.learner.intake.feeder import Feeder
from isentrope.learner.intake.intake_facts import FeederOptions
from isentrope.learner.intake.ledger import Ledger
from isentrope.learner.intake.outcomes import OutcomeRule
from isentrope.learner.intake.retirement import NONFINITE
from isentrope.learner.objective.objective import Objective
from isentrope.learner.objective.rules import unfit
from isentrope.learner.objective.run_facts import run_facts
from isentrope.learner.records import Outcome
from isentrope.learner.training.batch_steps import BatchSteps
from isentrope.learner.training.checkpointer import stored
from isentrope.learner.training.chosen_mode import in_chosen_mode, keep_mode
from isentrope.learner.training.evaluator import Evaluator, held_out_score, named_figures
from isentrope.learner.training.function_rewards import of_groups
from isentrope.learner.training.job import LearnerJob
from isentrope.learner.training.metrics import Draws, Surroundings, scalars, served_policy
from isentrope.learner.training.notices import noticed
from isentrope.learner.training.opening import Opening, new_state, open_folder
from isentrope.learner.training.poison import Poison
from isentrope.learner.training.rank_group import RankGroup
from isentrope.learner.training.sinks import open_sinks
from isentrope.learner.training.waiting import SLICE_S, StopAsked, Wait
from isentrope.rollout.broker.connection import Broker
from isentrope.rollout.broker.learner_port import LearnerPort
from isentrope.rollout.broker.run_view import ActorStage, RunView
from isentrope.rollout.rewards.correctness import correctness_of
from isentrope.rollout.wire.control import Control, Mode, RunState

logger = logging.getLogger(__name__)


def conduct(job: LearnerJob, objective: Objective, rank_group: RankGroup) -> None:
    """Open the run, train it to its end, and write its outcome. Errors that a user can fix end it too.

    Raises:
        FencedError: a newer learner has the run, and this one must not write its outcome. OutcomeError: nor the disk.
    """
    run: _Run | None = None
    try:
        with (
            noticed(Path(job.spec.output_dir)),
            closing(job.connect()) as broker,
        ):
            run = _open(job, objective, rank_group, broker)
            ended = run.conduct()
    except FencedError:
        raise
    except IsentropeError as error:
        logger.error("%s", error)
        ended = (Outcome.of_nothing() if run is None else run.outcome()).ended_by(error)
    ended.write(Path(job.spec.output_dir))


@dataclass(frozen=True, slots=True)
class _Parts:
    """The parts of a run on rank 0."""

    job: LearnerJob
    objective: Objective
    rank_group: RankGroup
    opening: Opening
    feeder: Feeder
    poison: Poison
    evaluator: Evaluator
    steps: BatchSteps


def _open(job: LearnerJob, objective: Objective, rank_group: RankGroup, broker: Broker) -> "_Run":
    spec, config = job.spec, job.config
    output_dir = Path(spec.output_dir)
    evaluator = Evaluator(job.local, rank_group, config.stall_timeout_s)
    new = new_state(job, objective, Mode(config.mode), evaluator.data_digest)
    opening = open_folder(job, rank_group, new, RunView(broker).checkpoint())
    opening = opening.started_as(in_chosen_mode(opening.start.state, output_dir))
    claim, start = opening.claim, opening.start
    ledger, poison = Ledger(start.state.ledger), Poison(output_dir, claim.incarnation, config.poison_after)
    poison.restore(ledger)
    control = Control(mode=start.state.mode, max_lag=config.staleness.max_lag)
    port = LearnerPort.fence(broker, claim.incarnation, ledger.lwm, ledger.cursor, spec, control, nonce=claim.nonce)
    rank_group.build(start.folder, objective.refreshed_at(start.state.controllers), begins=start.begins)
    rules = AdmissionRules(
        token_max_lag=config.staleness.oldest_token,
        min_kept=config.staleness.min_kept,
        max_replaced=objective.refill * spec.prompts_per_batch,
        outcome=OutcomeRule(objective.refill_by, correctness_of(spec.data)),
        data_rows=evaluator.train_rows,
        check=evaluator.check,
    )
    options = FeederOptions(config.batches, rules, control.mode, opening.store.newest_claim, lambda: rank_group.state)
    feeder = Feeder(port, ledger, options)
    sinks, draws = open_sinks(config, output_dir, feeder), Draws() if objective.refill else None
    steps = BatchSteps(job, opening, rank_group, sinks, draws)
    return _Run(_Parts(job, objective, rank_group, opening, feeder, poison, evaluator, steps))


class _Run:
    """One learner's run, from its first published weights to the end."""

    def __init__(self, parts: _Parts) -> None:
        self._parts = parts
        self._config = parts.job.config
        self._start = parts.opening.start
        self._batch = self._start.state.ledger.batches
        self._mode = self._start.state.mode
        self._steps = parts.steps
        self._publisher = parts.steps.publisher

    def conduct(self) -> Outcome:
        """Run from the first published weights to the end."""
        feeder = self._parts.feeder
        try:
            ended = self._end(finished=self._train_all())
            return ended if self._steps.alarm is None else ended.ended_by(self._steps.alarm)
        finally:
            self._publisher.drain()
            feeder.stop()
            self._steps.close()

    def outcome(self, *, finished: bool = False, version: int = 0, published: int = 0, again: int = 0) -> Outcome:
        """Return how the run ends if it ends now."""
        status = self._parts.feeder.status()
        return Outcome(
            status="finished" if finished else "stopped",
            exit_code=0,
            what="",
            where="",
            fix="",
            incarnation=self._publisher.incarnation,
            batches=self._batch,
            version=version,
            trained=status.trained,
            retired=status.retired,
            issued=status.issued,
            published=published,
            again=again,
            idle_s=status.idle_s,
            total_s=self._steps.watch.total_s,
        )

    # --- beginning and end

    def _train_all(self) -> bool:
        """Train all batches, and evaluate. False: an operator or an alarm ends the run."""
        try:
            self._begin()
            while self._batch < self._config.batches:
                if not self._train_next():
                    return False
            if self._start.state.ledger.batches < self._batch:
                self._evaluate()
        except StopAsked:
            return False
        return True

    def _begin(self) -> None:
        kept = -1 if self._start.is_new else self._batch
        self._steps.log.rewind(kept, self._parts.objective.refreshed_at(self._steps.controllers))
        self._parts.evaluator.rewind(kept)
        self._steps.untrained.start(self._parts.feeder.start(self._publisher.write(self._batch)))
        refreshed = self._is_evaluated() and self._parts.evaluator.lacks(self._batch) and self._evaluate()
        if refreshed or self._start.begins:  # from now on the other run's checkpoint is not needed
            self._save()

    def _end(self, *, finished: bool) -> Outcome:
        self._save()
        self._publisher.settle(self._parts.feeder)
        if self._publisher.newest.batch < self._batch:
            self._publisher.write(self._batch)  # stopped between two versions: the newest is what was trained
        feeder = self._parts.feeder
        self._parts.poison.keep_requeues(feeder)
        control = feeder.control()
        answered = {"state": RunState.STOP, "requested_stop": False, "requested_mode": None}
        feeder.set_control(control.model_copy(update=answered | {"goes_on": not (finished or self._steps.alarm)}))
        counters = feeder.counters()
        return self.outcome(
            finished=finished,
            version=self._publisher.newest.version,
            published=counters.get("published", 0),
            again=counters.get("reaped", 0) + counters.get("reissued", 0),
        )

    # --- one batch

    def _train_next(self) -> bool:
        """Train one batch and do all that is due after it. False: an operator or an alarm ends the run."""
        feeder = self._parts.feeder
        with self._steps.watch("wait_s"):
            ready = self._await_batch()
        if ready is None:
            return False
        if self._parts.poison.retire(ready, feeder):
            return True
        newest = self._publisher.newest.version
        with self._parts.poison.watched(ready.record):
            step = self._steps.train(ready, ready.record.mode, newest)
        if not self._steps.take(step):
            self._give_up(ready)
            return True
        feeder.trained()
        self._batch += 1
        intake = feeder.status()  # before anything else is issued
        stop_asked = not self._publish_if_due()  # the batch is trained: its row is written first
        actors = feeder.actors()
        serving = sum(actor.state is ActorStage.SERVING for actor in actors)
        version = self._publisher.newest.version
        rewards, served = of_groups(self._parts.job.spec.data, ready.groups), served_policy(actors)
        surroundings = Surroundings(ready.record.mode, intake, version, serving, rewards, served, self._config.ranks)
        self._steps.write(step, surroundings)
        if stop_asked or self._steps.alarm is not None:
            return False
        if self._batch < self._config.batches:
            refreshed = self._is_evaluated() and self._evaluate()
            if refreshed or self._is_due(self._config.checkpoint_every) or self._parts.feeder.is_pressed():
                self._save()
        return True

    def _publish_if_due(self) -> bool:
        """Publish the batch's weights if they are due; return False if a stop was asked for meanwhile."""
        try:
            if self._is_due(self._parts.job.weights.publish_every) or self._mode is Mode.ON_POLICY:
                self._publish()
        except StopAsked:
            return False
        return True

    def _await_batch(self) -> ReadyBatch | None:
        """Return the next batch; None: an operator wants the run to stop."""
        feeder = self._parts.feeder
        groups = f"groups of batch {self._batch + 1}"
        wait = Wait(self._parts.rank_group, self._config.stall_timeout_s, feeder.why_waiting, groups)
        while not self._answer_operator():
            if (ready := feeder.next_batch(SLICE_S)) is not None:
                return ready
            if feeder.is_pressed():
                self._save()
                feeder.shed()  # what was retired since a batch that is saved already
            if feeder.status().quiet_s < SLICE_S:
                wait.progress()
            wait.tick()
        return None

    def _give_up(self, ready: ReadyBatch) -> None:
        """Abandon a batch of which no update had a finite loss and gradient."""
        logger.warning("batch %d has no finite update; its groups are retired", self._batch + 1)
        self._parts.feeder.give_up([group.seq for group in ready.groups], NONFINITE)
        self._steps.require_finite(self._batch + 1)

    def _is_evaluated(self) -> bool:
        """Return True if the policy after the batches so far is one that is evaluated."""
        by_interval = self._config.eval_every > 0 and self._batch % self._config.eval_every == 0
        return by_interval or self._batch in (0, self._config.batches)

    def _is_due(self, every: int) -> bool:
        return self._batch % every == 0 or self._batch == self._config.batches

    # --- after a batch

    def _publish(self) -> None:
        with self._steps.watch("publish_s"):
            verify = self._mode is Mode.ON_POLICY
            self._publisher.publish(self._batch, self._parts.feeder, verify=verify)

    def _evaluate(self) -> bool:
        """Evaluate; return True if the reference was refreshed, which a checkpoint must record at once."""
        self._publish()
        with self._steps.watch("publish_s"):
            self._publisher.settle(self._parts.feeder)
        newest = self._publisher.newest
        with self._steps.watch("evaluate_s"):
            rows = self._parts.evaluator.evaluate(newest.version, self._parts.feeder)
        for sink in self._steps.sinks:
            sink.write(newest.batch, scalars(named_figures(rows)))
        score = held_out_score(rows)
        if score is None or self._batch == self._config.batches:
            return False  # no prompt was answered, or no batch follows
        state, refresh = self._parts.objective.after_evaluation(self._steps.controllers, score, self._batch)
        self._steps.controllers = stored(state)
        if refresh:
            logger.info("the reference was refreshed after batch %d, and the optimizer reset", self._batch)
            self._parts.rank_group.refresh(newest.version)
            self._steps.log.restart_law()
        return refresh

    def _save(self) -> None:
        facts = self._parts.feeder.commit_facts()
        changed = {"mode": self._mode, "ledger": facts.ledger, "controllers": self._steps.controllers}
        state = self._start.state.model_copy(update=changed)
        with self._steps.watch("checkpoint_s"):
            self._steps.checkpointer.save(state, facts, self._parts.feeder)

    # --- operator

    def _answer_operator(self) -> bool:
        """Carry out an operator's request. True: the run must stop."""
        self._parts.poison.requeue(self._parts.feeder)
        control = self._parts.feeder.control()
        if control.requested_mode is not None:
            self._switch(control, control.requested_mode)
        elif control.request and not control.requested_stop:
            self._parts.feeder.set_control(
                control.model_copy(update={"note": "the request is not one of this program"})
            )
        return control.requested_stop

    def _switch(self, control: Control, mode: Mode) -> None:
        facts = run_facts(self._config, self._parts.job.spec.sampling, mode=mode, evaluates=True)
        refusal = unfit(self._parts.objective, facts)
        if refusal:
            logger.warning("mode %s is refused: %s", mode, refusal)
        else:
            self._mode = mode
            logger.info("mode is now %s", mode)
            if mode is Mode.ON_POLICY:
                self._publish()
            keep_mode(Path(self._parts.job.spec.output_dir), mode, self._batch)
        answer = {"mode": self._mode, "note": refusal, "requested_mode": None}
        self._parts.feeder.set_control(control.model_copy(update=answer))
