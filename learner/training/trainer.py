"""One batch on all ranks: statistics of the present policy, preparation, optimizer updates, their metrics.

Rank 0 has the whole batch. It deals every other rank the responses that its network sees, gets their statistics, runs
the stages that need all responses, and deals what those gave for the same responses. So results that depend on the
whole batch do not depend on the number of ranks, and what rank 0 sends grows with the batch alone.
N responses, T tokens of the longest, n responses of a micro-batch.
"""

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from isentrope.errors import InternalError, RewardError
from isentrope.kernels.plain import Moments
from isentrope.learner.config import LearnerConfig
from isentrope.learner.intake.packing import make_batch, pack, pad
from isentrope.learner.intake.plan import Plan, make_plan, make_sweep
from isentrope.learner.intake.ragged import RaggedBatch
from isentrope.learner.intake.share import Share, share_of, share_of_first
from isentrope.learner.objective import critic_terms
from isentrope.learner.objective.batch import Batch, Prepared
from isentrope.learner.objective.kernel_rules import rules_of
from isentrope.learner.objective.needs import Need, needs
from isentrope.learner.objective.objective import ControllerStates, Objective
from isentrope.learner.training import prepared_columns
from isentrope.learner.training.collectives import Collectives
from isentrope.learner.training.critic import CriticEngine, ValueLoss
from isentrope.learner.training.deepspeed_engine import TrainingEngine, UpdateFacts
from isentrope.learner.training.frozen_engine import FrozenEngine
from isentrope.learner.training.micro_batch import UpdateLoss
from isentrope.learner.training.reference_policy import ReferencePolicy

logger = logging.getLogger(__name__)

ATTRIBUTED = 64
"""Responses at which a change of entropy is measured."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """Division of a batch, and its place in the run."""

    seed: int
    micro_batch_tokens: int
    updates_per_batch: int
    epochs: int
    progress: float
    """Share of the run that is done when the batch is."""
    attributes: bool = False
    """True if the change of entropy is measured after the updates."""

    @classmethod
    def of(cls, config: LearnerConfig, seed: int, batch: int) -> Self:
        """Return that of batch number `batch`, by what holds in its mode."""
        return cls(
            seed=seed,
            micro_batch_tokens=config.micro_batch_tokens,
            updates_per_batch=config.updates_per_batch,
            epochs=config.epochs,
            progress=batch / config.batches,
            attributes=bool(config.attribution_every) and batch % config.attribution_every == 0,
        )


@dataclass(frozen=True, slots=True)
class BatchFacts:
    """Results of a batch."""

    batch: Batch
    """The batch, with the statistics of the policy before it."""
    prepared: Prepared
    updates: tuple[UpdateFacts, ...]
    state: ControllerStates
    """State of the objective's controllers after the batch."""
    statistics_s: float
    updates_s: float
    at_bound: tuple[str, ...] = ()
    """Controllers whose value is at a bound beyond which they would go on."""
    idle: tuple[str, ...] = ()
    """Controllers whose value does nothing."""
    critic: tuple[UpdateFacts, ...] = ()
    """Updates of the critic; while it alone is trained there are no others."""
    entropy_change: float | None = None
    """Mean change of entropy by the updates at some tokens of the batch, nats; None: not measured."""

    @property
    def applied(self) -> int:
        """Updates that changed the weights."""
        return sum(update.applied for update in self.updates)

    @property
    def failed(self) -> bool:
        """True if updates were due and none had a finite loss and gradient."""
        return failed(self.updates or self.critic, self.prepared)


class Trainer:
    """Training and scoring on one rank. All methods are collective."""

    def __init__(
        self,
        collectives: Collectives,
        engine: TrainingEngine | FrozenEngine,
        objective: Objective,
        reference: ReferencePolicy | None,
        critic: CriticEngine | None = None,
    ) -> None:
        """Prepare; reference: None: the objective needs none; critic: None: it needs none, or nothing is trained."""
        self._collectives = collectives
        self._engine = engine
        self._objective = objective
        self._reference = reference
        self._critic = critic
        fuses = engine.device.type == "cuda" and objective.sampling_mask == "none"
        self._rules = rules_of(objective) if fuses else None
        if engine.device.type == "cuda":
            logger.info("loss and gradient: %s", "one fused call" if self._rules else "from fused log-probabilities")
        wanted = needs(objective)
        self._wants_answers, self._wants_values = Need.ANSWERS in wanted, Need.CRITIC in wanted
        self._wants_steps = Need.STEP_LABELS in wanted

    def statistics(self, ragged: RaggedBatch | None, micro_batch_tokens: int) -> Moments:
        """Return statistics of the present policy over all responses: [N, T] each, 0 off responses; on other ranks,
        which are given none, those of their share."""
        plan = None
        if ragged is not None:
            lengths, rows = ragged.packed_length, range(len(ragged.length))
            padded = not self._engine.policy.runs_packed
            plan = Plan(make_sweep(lengths, rows, self._collectives.size, micro_batch_tokens, padded=padded), ())
        return self._statistics(self._share(ragged, plan), plan)

    def train(self, ragged: RaggedBatch | None, schedule: Schedule, state: ControllerStates) -> BatchFacts:
        """Train one batch, which rank 0 alone is given; `state` is that of the controllers before it. The facts of
        other ranks are those of their share.

        Raises:
            RewardError: the method needs final answers, and the reward gives none.
            InternalError: on other ranks, if rank 0 has failed.
        """
        began = time.monotonic()
        plan = None if ragged is None else self._plan(ragged, schedule)
        share = self._share(ragged, plan)
        statistics, logp_ref = self._statistics(share, plan), self._logp_ref(share, plan)
        batch = make_batch(share.ragged, statistics, seed=schedule.seed, logp_ref=logp_ref)
        supplied = {"values": self._values(share, plan)} if self._wants_values else {}
        batch = replace(batch, progress=schedule.progress, supplied=supplied)
        measured = time.monotonic()
        prepared = self._prepared(share.ragged, batch, plan, state)
        updates, critic, before = tuple[UpdateFacts, ...](), tuple[UpdateFacts, ...](), state
        trains = not critic_terms.warms_up(self._objective.critic, batch.number)
        if trains and isinstance(self._engine, TrainingEngine):
            updates, state = self._update(self._engine, share, prepared, schedule.progress, state)
        if self._critic is not None and not failed(updates, prepared):  # a skipped batch changes no weights
            critic = self._update_critic(self._critic, share, prepared, before)
        change = self._entropy_change(share, batch) if schedule.attributes and updates else None
        return BatchFacts(
            batch,
            prepared,
            updates,
            state,
            statistics_s=measured - began,
            updates_s=time.monotonic() - measured,
            at_bound=self._objective.at_bound(state),
            idle=self._objective.idle(state),
            critic=critic,
            entropy_change=change,
        )

    def _entropy_change(self, share: Share, batch: Batch) -> float:
        """Return the mean change of entropy since the statistics, at the trained tokens of about `ATTRIBUTED`
        responses, evenly of all micro-batches; of all ranks, on every rank."""
        quota = -(-ATTRIBUTED // self._collectives.size)
        parts = share.statistics[:: -(-len(share.statistics) // quota)]  # equally many on every rank
        total = torch.zeros(2, dtype=torch.float64)
        for part in parts:
            rows = list(part[: max(1, quota // len(parts))])
            now = self._engine.statistics(pack(share.ragged, rows, self._engine.device)).entropy
            change = (now - batch.statistics.entropy[rows])[(batch.mask & batch.sampled[:, None])[rows]]
            total += torch.tensor([change.double().sum(), len(change)], dtype=torch.float64)
        found: list[float] = self._collectives.sum(total).tolist()
        return found[0] / max(found[1], 1.0)

    def _update(
        self, engine: TrainingEngine, share: Share, prepared: Prepared, progress: float, state: ControllerStates
    ) -> tuple[tuple[UpdateFacts, ...], ControllerStates]:
        """Do the updates of a batch; return their facts, and the state of the controllers after them."""
        updates: list[UpdateFacts] = []
        for number, parts in enumerate(share.updates):
            if not prepared.tokens[number]:
                # Filters left nothing: a step would apply the optimizer's moments alone.
                updates.append(UpdateFacts(applied=False, grad_norm=0.0, sums={}, maxima={}))
                continue
            loss = UpdateLoss(self._objective, self._rules, prepared, number, state)
            packed = [pack(share.ragged, rows, engine.device) for rows in parts]
            engine.rate_factor = self._objective.learning_rate(state)
            facts = _over_ranks(self._collectives, engine.update(packed, loss))
            if facts.applied:
                state = self._objective.after_update(state, facts.sums, progress)
            updates.append(facts)
        if sums := applied_sums(updates):
            state = self._objective.after_batch(state, sums, progress)
        return tuple(updates), state

    def _update_critic(
        self, engine: CriticEngine, share: Share, prepared: Prepared, state: ControllerStates
    ) -> tuple[UpdateFacts, ...]:
        """Do the critic's updates of a batch, on the policy's micro-batches; return their facts."""
        updates = []
        for number, parts in enumerate(share.updates):
            if prepared.tokens[number]:
                packed = [pack(share.ragged, rows, engine.device) for rows in parts]
                loss = ValueLoss(self._objective, prepared, number, state)
                updates.append(_over_ranks(self._collectives, engine.update(packed, loss)))
        return tuple(updates)

    def _plan(self, ragged: RaggedBatch, schedule: Schedule) -> Plan:
        with self._telling_of_failure():
            if self._wants_answers and (ragged.answer < 0).all():
                raise RewardError(
                    "the method tells responses apart by their final answers, and the reward gives none",
                    where="data.reward",
                    fix='return {"reward": ..., "answer": ...} for each response',
                )
            if self._wants_steps and ragged.step_correct is None:
                raise RewardError(
                    "the method weighs steps of reasoning, and the reward gives none, nor does the data hold some",
                    where="data.reward",
                    fix='return {"reward": ..., "steps": [[start, end, correct], ...]} for each response, or set '
                    "data.steps",
                )
            return make_plan(
                ragged.packed_length,
                ragged.group,
                ranks=self._collectives.size,
                micro_batch_tokens=schedule.micro_batch_tokens,
                updates_per_batch=schedule.updates_per_batch,
                epochs=schedule.epochs,
                padded=not self._engine.policy.runs_packed,
            )

    def _share(self, ragged: RaggedBatch | None, plan: Plan | None) -> Share:
        """Return the share of this rank in the batch that rank 0 has."""
        if ragged is None or plan is None:
            return Share.from_bytes(self._dealt())
        told = ragged.for_updates(self._objective.updates_read)
        self._collectives.deal(lambda rank: share_of(told, plan, rank).to_bytes())
        return share_of_first(ragged, plan)

    def _prepared(self, ragged: RaggedBatch, batch: Batch, plan: Plan | None, state: ControllerStates) -> Prepared:
        """Return what is fixed during the updates: all of it on rank 0, which computes it, else that of a share."""
        if plan is None:
            terms = [term.tokens is not None for term in self._objective.kl]
            return prepared_columns.from_bytes(self._dealt(), ragged, self._objective.seen(batch), terms)
        with self._telling_of_failure():
            prepared = self._objective.prepare(batch, [torch.tensor(sweep.rows) for sweep in plan.updates], state)
        self._collectives.deal(lambda rank: prepared_columns.to_bytes(prepared, plan.rows_of(rank)))
        return prepared

    @contextmanager
    def _telling_of_failure(self) -> Iterator[None]:
        """Send the other ranks nothing if rank 0 fails before it deals them their parts."""
        try:
            yield
        except Exception:
            self._collectives.deal(lambda rank: b"")
            raise

    def _dealt(self) -> bytes:
        part = self._collectives.dealt()
        if not part:
            raise InternalError("rank 0 could not prepare the batch", where="the learner's ranks", fix="see its log")
        return part

    def _statistics(self, share: Share, plan: Plan | None) -> Moments:
        own = torch.zeros(len(Moments._fields), *share.ragged.shape)
        for rows in share.statistics:
            moments = self._engine.statistics(pack(share.ragged, rows, self._engine.device))
            own[:, list(rows)] = torch.stack(list(moments))
        return Moments(*self._collected(own, share, plan))

    def _logp_ref(self, share: Share, plan: Plan | None) -> Tensor | None:
        """Return [N, T], divided over ranks like the statistics; None without a reference."""
        if self._reference is None:
            return None
        own = torch.zeros(1, *share.ragged.shape)
        for rows in share.statistics:
            own[0, list(rows)] = self._reference.logp(pack(share.ragged, rows, self._engine.device))
        return self._collected(own, share, plan)[0]

    def _values(self, share: Share, plan: Plan | None) -> Tensor:
        """Return the critic's [N, T], divided over ranks like the statistics; 0, as those of a new critic, if nothing
        is trained."""
        own = torch.zeros(1, *share.ragged.shape)
        if self._critic is None:
            return own[0]
        for rows in share.statistics:
            own[0, list(rows)] = self._critic.values(pack(share.ragged, rows, self._critic.device))
        return self._collected(own, share, plan)[0]

    def _collected(self, own: Tensor, share: Share, plan: Plan | None) -> Tensor:
        """Return numbers [k, N, T] of all responses on rank 0, which has filled in its own; else what is given."""
        length, longest = share.ragged.length, share.ragged.longest
        if plan is None:
            valid = torch.arange(longest) < torch.from_numpy(length)[:, None]
            self._collectives.report(own[:, valid])
            return own
        for rank in range(1, self._collectives.size):
            rows = list(plan.rows_of(rank))
            theirs = self._collectives.reported(rank, own.new_empty(len(own), int(length[rows].sum())))
            own[:, rows] = torch.stack([pad(length[rows], longest, values) for values in theirs])
        return own


def failed(due: Sequence[UpdateFacts], prepared: Prepared) -> bool:
    """Return True if updates were due and none had a finite loss and gradient."""
    return bool(due) and not any(update.applied for update in due) and bool(prepared.tokens.any())


def applied_sums(updates: Sequence[UpdateFacts]) -> dict[str, float]:
    """Return the sums of the updates that were applied, added up; empty if none was."""
    applied = [update.sums for update in updates if update.applied]
    return {name: sum(sums[name] for sums in applied) for name in applied[0]} if applied else {}


def _over_ranks(collectives: Collectives, facts: UpdateFacts) -> UpdateFacts:
    """Add up the facts of all ranks' micro-batches, by one collective with a slot for each rank's maxima."""
    total = torch.tensor(list(facts.sums.values()), dtype=torch.float64)
    largest = torch.zeros(collectives.size, len(facts.maxima), dtype=torch.float64)
    largest[collectives.rank] = torch.tensor(list(facts.maxima.values()), dtype=torch.float64)
    everywhere = collectives.sum(torch.cat([total, largest.flatten()]))
    highest = everywhere[len(total) :].view_as(largest).amax(0)
    return replace(
        facts,
        sums=dict(zip(facts.sums, everywhere[: len(total)].tolist(), strict=True)),
        maxima=dict(zip(facts.maxima, highest.tolist(), strict=True)),
    )
