"""One batch, the same on every rank: statistics of the present policy, preparation, optimizer updates, their metrics.

Every rank holds the whole batch's per-token numbers and runs the batch-level stages itself; only the network's passes
are divided, and the tokens that they read. So results that depend on the whole batch are exact on any number of ranks.
N responses, T tokens of the longest, n responses of a micro-batch.
"""

import logging
import time
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from isentrope.errors import RewardError
from isentrope.kernels.plain import Moments
from isentrope.learner.intake.packing import make_batch, pack
from isentrope.learner.intake.plan import Plan, Sweep, make_plan, make_sweep
from isentrope.learner.intake.ragged import RaggedBatch
from isentrope.learner.objective.batch import Batch, Prepared
from isentrope.learner.objective.kernel_rules import rules_of
from isentrope.learner.objective.needs import Need, needs
from isentrope.learner.objective.objective import ControllerStates, Objective
from isentrope.learner.training.collectives import Collectives
from isentrope.learner.training.deepspeed_engine import TrainingEngine, UpdateFacts
from isentrope.learner.training.micro_batch import UpdateLoss
from isentrope.learner.training.reference_policy import ReferencePolicy

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Schedule:
    """Division of a batch, and its place in the run."""

    seed: int
    micro_batch_tokens: int
    updates_per_batch: int
    epochs: int
    progress: float
    """Share of the run that is done when the batch is."""


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

    @property
    def applied(self) -> int:
        """Updates that changed the weights."""
        return sum(update.applied for update in self.updates)

    @property
    def failed(self) -> bool:
        """True if updates were due and none had a finite loss and gradient."""
        return not self.applied and bool(self.prepared.tokens.any())


class Trainer:
    """Training and scoring on one rank. All methods are collective."""

    def __init__(
        self, collectives: Collectives, engine: TrainingEngine, objective: Objective, reference: ReferencePolicy | None
    ) -> None:
        self._collectives = collectives
        self._engine = engine
        self._objective = objective
        self._reference = reference
        self._rules = rules_of(objective) if engine.device.type == "cuda" else None
        if engine.device.type == "cuda":
            logger.info("loss and gradient: %s", "one fused call" if self._rules else "from fused log-probabilities")
        self._wants_answers = Need.ANSWERS in needs(objective)

    def statistics(self, ragged: RaggedBatch, micro_batch_tokens: int) -> Moments:
        """Return statistics of the present policy over all responses, on every rank: [N, T] each, 0 off responses."""
        lengths, rows = ragged.packed_length, range(len(ragged.length))
        return self._statistics(ragged, make_sweep(lengths, rows, self._collectives.size, micro_batch_tokens))

    def train(self, ragged: RaggedBatch, schedule: Schedule, state: ControllerStates) -> BatchFacts:
        """Train one batch, which has text on rank 0 alone; `state` is that of the controllers before it.

        Raises:
            RewardError: the method needs final answers, and the reward gives none.
        """
        if self._wants_answers and (ragged.answer < 0).all():
            raise RewardError(
                "the method tells responses apart by their final answers, and the reward gives none",
                where="data.reward",
                fix='return {"reward": ..., "answer": ...} for each response',
            )
        began = time.monotonic()
        plan = self._plan(ragged, schedule)
        ragged = self._with_own_text(ragged, plan)
        statistics, logp_ref = self._statistics(ragged, plan.statistics), self._logp_ref(ragged, plan.statistics)
        batch = make_batch(ragged, statistics, seed=schedule.seed, logp_ref=logp_ref)
        measured = time.monotonic()
        prepared = self._objective.prepare(batch, [torch.tensor(sweep.rows) for sweep in plan.updates], state)
        updates: list[UpdateFacts] = []
        for number, sweep in enumerate(plan.updates):
            if not prepared.tokens[number]:
                # Filters left nothing: a step would apply the optimizer's moments alone.
                updates.append(UpdateFacts(applied=False, grad_norm=0.0, sums={}, maxima={}))
                continue
            loss = UpdateLoss(self._objective, self._rules, prepared, number, state)
            shares = [pack(ragged, rows, self._engine.device) for rows in sweep.shares[self._collectives.rank]]
            facts = _over_ranks(self._collectives, self._engine.update(shares, loss))
            if facts.applied:
                state = self._objective.after_update(state, facts.sums, schedule.progress)
            updates.append(facts)
        updates_s, at_bound = time.monotonic() - measured, self._objective.at_bound(state)
        return BatchFacts(batch, prepared, tuple(updates), state, measured - began, updates_s, at_bound)

    def _plan(self, ragged: RaggedBatch, schedule: Schedule) -> Plan:
        return make_plan(
            ragged.packed_length,
            ragged.group,
            ranks=self._collectives.size,
            micro_batch_tokens=schedule.micro_batch_tokens,
            updates_per_batch=schedule.updates_per_batch,
            epochs=schedule.epochs,
        )

    def _with_own_text(self, ragged: RaggedBatch, plan: Plan) -> RaggedBatch:
        """Return the batch with the tokens of the rows that this rank's network sees, at least."""
        if self._collectives.rank == 0:
            self._collectives.deal(lambda rank: torch.from_numpy(ragged.text_of(plan.rows_of(rank))))
            return ragged
        rows = plan.rows_of(self._collectives.rank)
        return ragged.with_text(rows, self._collectives.dealt(ragged.text_length(rows)).numpy())

    def _statistics(self, ragged: RaggedBatch, sweep: Sweep) -> Moments:
        """Sum over ranks: each response is computed on one rank and zero on the others, so the sum is exact."""
        whole = torch.zeros(len(Moments._fields), *ragged.shape)
        for rows in sweep.shares[self._collectives.rank]:
            moments = self._engine.statistics(pack(ragged, rows, self._engine.device))
            whole[:, list(rows)] = torch.stack(list(moments))
        return Moments(*self._collectives.sum(whole))

    def _logp_ref(self, ragged: RaggedBatch, sweep: Sweep) -> Tensor | None:
        """Return [N, T], divided over ranks like the statistics; None without a reference."""
        if self._reference is None:
            return None
        whole = torch.zeros(ragged.shape)
        for rows in sweep.shares[self._collectives.rank]:
            whole[list(rows)] = self._reference.logp(pack(ragged, rows, self._engine.device))
        return self._collectives.sum(whole)


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
