"""One batch on every rank alike: statistics of the present policy, preparation, optimizer updates, what they measured.

Every rank holds the whole batch's per-token numbers and runs the batch-level stages itself; only the network's passes
are shared out. So what depends on the whole batch is exact on any number of ranks. Knows the objective's seam, never a
method. N responses, T tokens of the longest, n responses of a micro-batch.
"""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from isentrope.errors import RewardError
from isentrope.kernels.plain import Moments
from isentrope.learner.intake.packing import Arrays, pack, to_batch
from isentrope.learner.intake.plan import Plan, Sweep, make_plan, make_sweep
from isentrope.learner.objective.batch import Batch, LossParts, Prepared
from isentrope.learner.objective.kernel_rules import fused_inputs, rules_of
from isentrope.learner.objective.needs import Need, needs
from isentrope.learner.objective.objective import ControllerStates, Objective
from isentrope.learner.training.collectives import Collectives
from isentrope.learner.training.deepspeed_engine import Step, TrainingEngine
from isentrope.learner.training.micro_batch import Micro
from isentrope.learner.training.reference_policy import ReferencePolicy

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Schedule:
    """How a batch is divided, and where in the run it is."""

    seed: int
    micro_batch_tokens: int
    updates_per_batch: int
    epochs: int
    progress: float
    """Share of the run that is done when the batch is."""


@dataclass(frozen=True, slots=True)
class UpdateFacts:
    """What one update measured, over all ranks."""

    applied: bool
    grad_norm: float
    sums: dict[str, float]
    maxima: dict[str, float]


@dataclass(frozen=True, slots=True)
class BatchFacts:
    """What became of a batch."""

    batch: Batch
    """With the statistics of the policy before it."""
    prepared: Prepared
    updates: tuple[UpdateFacts, ...]
    state: ControllerStates
    """Of the objective's controllers, after the batch."""
    statistics_s: float
    updates_s: float

    @property
    def applied(self) -> int:
        """Updates that changed the weights."""
        return sum(update.applied for update in self.updates)

    @property
    def failed(self) -> bool:
        """Updates were due, and none had a finite loss and gradient. Filters may also leave nothing to train on."""
        return not self.applied and bool(self.prepared.tokens.any())


class Trainer:
    """One rank's part in training and scoring. All methods are collective."""

    def __init__(
        self, ranks: Collectives, stepper: TrainingEngine, objective: Objective, frozen: ReferencePolicy | None
    ) -> None:
        self._ranks = ranks
        self._stepper = stepper
        self._objective = objective
        self._frozen = frozen
        self._rules = rules_of(objective) if stepper.device.type == "cuda" else None
        if stepper.device.type == "cuda":
            logger.info("loss and gradient: %s", "one fused call" if self._rules else "from fused log-probabilities")
        self._wants_answers = Need.ANSWERS in needs(objective)

    def statistics(self, arrays: Arrays, micro_batch_tokens: int) -> Moments:
        """Of the present policy over all responses, on every rank: each field [N, T], 0 off the responses."""
        lengths, rows = arrays.packed_length, range(len(arrays.length))
        return self._statistics(arrays, make_sweep(lengths, rows, self._ranks.size, micro_batch_tokens))

    def train(self, arrays: Arrays, schedule: Schedule, state: ControllerStates) -> BatchFacts:
        """Train one batch; `state` is that of the controllers before it."""
        if self._wants_answers and (arrays.answer < 0).all():
            raise RewardError(
                "the method tells responses apart by their final answers, and the reward gives none",
                where="data.reward",
                fix='return {"reward": ..., "answer": ...} for each response',
            )
        began = time.monotonic()
        plan = self._plan(arrays, schedule)
        batch = _with_statistics(to_batch(arrays, seed=schedule.seed), self._statistics(arrays, plan.statistics))
        if self._frozen is not None:
            batch = replace(batch, logp_ref=self._logp_ref(self._frozen, arrays, plan.statistics))
        measured = time.monotonic()
        prepared = self._objective.prepare(batch, [torch.tensor(sweep.rows) for sweep in plan.updates], state)
        updates: list[UpdateFacts] = []
        for number, sweep in enumerate(plan.updates):
            if not prepared.tokens[number]:
                # Filters left nothing: a step would be one of the optimizer's moments alone.
                updates.append(UpdateFacts(applied=False, grad_norm=0.0, sums={}, maxima={}))
                continue
            facts = self._update(arrays, prepared, number, sweep, state)
            if facts.applied:
                state = self._objective.after_update(state, facts.sums, schedule.progress)
            updates.append(facts)
        return BatchFacts(batch, prepared, tuple(updates), state, measured - began, time.monotonic() - measured)

    def _plan(self, arrays: Arrays, schedule: Schedule) -> Plan:
        return make_plan(
            arrays.packed_length,
            arrays.group,
            ranks=self._ranks.size,
            micro_batch_tokens=schedule.micro_batch_tokens,
            updates_per_batch=schedule.updates_per_batch,
            epochs=schedule.epochs,
        )

    def _statistics(self, arrays: Arrays, sweep: Sweep) -> Moments:
        """Every response is computed by one rank and zero on the others, so their sum is exact."""
        whole = torch.zeros(len(Moments._fields), *arrays.tokens.shape)
        for rows in sweep.shares[self._ranks.rank]:
            moments = self._stepper.statistics(pack(arrays, rows, self._stepper.device))
            whole[:, list(rows)] = torch.stack(list(moments))
        return Moments(*self._ranks.sum(whole))

    def _logp_ref(self, frozen: ReferencePolicy, arrays: Arrays, sweep: Sweep) -> Tensor:
        """[N, T], shared out like the statistics."""
        whole = torch.zeros(arrays.tokens.shape)
        for rows in sweep.shares[self._ranks.rank]:
            whole[list(rows)] = frozen.logp(pack(arrays, rows, self._stepper.device))
        return self._ranks.sum(whole)

    def _update(
        self, arrays: Arrays, prepared: Prepared, number: int, sweep: Sweep, state: ControllerStates
    ) -> UpdateFacts:
        shares = sweep.shares[self._ranks.rank]
        step = self._stepper.update([self._micro(arrays, prepared, number, rows, state) for rows in shares])
        sums, maxima = _measured(self._ranks, step)
        return UpdateFacts(step.applied, step.grad_norm, sums, maxima)

    def _micro(
        self, arrays: Arrays, prepared: Prepared, number: int, rows: Sequence[int], state: ControllerStates
    ) -> Micro:
        chosen = torch.tensor(rows, dtype=torch.int64)
        rules = self._rules
        return Micro(
            pack(arrays, rows, self._stepper.device),
            partial(self._surrogate, prepared, number, chosen, state),
            None if rules is None else fused_inputs(self._objective, rules, prepared, number, chosen),
        )

    def _surrogate(  # noqa: PLR0913  (as `Objective.token_loss`)
        self, prepared: Prepared, number: int, rows: Tensor, state: ControllerStates, logp: Tensor, entropy: Tensor
    ) -> LossParts:
        """The part of update `number`'s loss that responses `rows` make."""
        return self._objective.token_loss(prepared, number, rows, logp, entropy, state)


def _with_statistics(batch: Batch, moments: Moments) -> Batch:
    return replace(
        batch,
        logp_old=moments.logp,
        entropy_old=moments.entropy,
        sum_p2=moments.sum_p2,
        sum_p2_logp=moments.sum_p2_logp,
    )


def _measured(ranks: Collectives, step: Step) -> tuple[dict[str, float], dict[str, float]]:
    """Sums and maxima over the micro-batches of all ranks, by one collective: every rank has a place for its maxima."""
    sums, maxima = sorted(step.parts[0].sums), sorted(step.parts[0].maxima)
    total = torch.stack([torch.stack([part.sums[name].double() for name in sums]) for part in step.parts]).sum(0)
    largest = torch.zeros(ranks.size, len(maxima), dtype=torch.float64)
    for place, name in enumerate(maxima):
        largest[ranks.rank, place] = torch.stack([part.maxima[name].double() for part in step.parts]).amax()
    everywhere = ranks.sum(torch.cat([total, largest.flatten()]))
    highest = everywhere[len(sums) :].view_as(largest).amax(0)
    return (
        dict(zip(sums, everywhere[: len(sums)].tolist(), strict=True)),
        dict(zip(maxima, highest.tolist(), strict=True)),
    )
