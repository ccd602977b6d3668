"""What a rank is dealt of a batch is all that its updates read, and little."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_batch import FUNCTIONS, LONGEST, make_toy_rows

from isentrope.kernels.plain import Moments
from isentrope.learner.intake.packing import make_batch
from isentrope.learner.intake.plan import Plan, make_plan
from isentrope.learner.intake.ragged import RaggedBatch, make_ragged
from isentrope.learner.intake.share import Share, share_of
from isentrope.learner.objective import critic_terms
from isentrope.learner.objective.batch import Batch, Prepared
from isentrope.learner.objective.needs import PROVIDED, Need, needs
from isentrope.learner.objective.objective import Objective
from isentrope.learner.objective.presets import build, load_objective, method_names
from isentrope.learner.training import prepared_columns
from isentrope.rollout.rewards.correctness import Correctness
from isentrope.rollout.wire.types import Finish, Group, Response, Steps, version_of


def objective_of(name: str) -> Objective:
    return build(load_objective(name, {}, Path()), Path(), max_new_tokens=LONGEST)


RUNNABLE = [name for name in method_names() if set(needs(objective_of(name))) <= PROVIDED]


def long_rows() -> RaggedBatch:
    """Return 32 groups of 4 responses of 64 to 1,024 tokens, from two versions."""
    rng = np.random.default_rng(0)

    def response(index: int) -> Response:
        length = int(rng.integers(64, 1025))
        return Response(
            tokens=rng.integers(0, 50_000, length).astype(np.int32),
            logp_rollout=-rng.exponential(1, length).astype(np.float32),
            mask=np.ones(length, np.bool_),
            span_start=np.zeros(1, np.int32),
            span_version=np.full(1, version_of(1, int(rng.integers(4, 6)))),
            finish=Finish.STOP,
            reward=float(rng.random() < 0.5),
            steps=Steps(np.zeros(1, np.int32), np.full(1, length // 2, np.int32), np.ones(1, np.bool_)),
            reward_parts={"second": float(index % 2), "third": float(rng.random())},
            seed=index,
            answer=str(index % 3),
        )

    def group(seq: int) -> Group:
        return Group(
            seq, 0, "a", np.ones(100, np.int32), tuple(map(response, range(4))), 1.0, greedy_reward=seq % 2 / 2
        )

    correctness = Correctness("reward", 0.5)
    groups = list(map(group, range(32)))
    return make_ragged(groups, number=6, token_max_lag=2, correctness=correctness, functions=FUNCTIONS)


LONG = long_rows()


def rows_of(objective: Objective, ragged: RaggedBatch) -> RaggedBatch:
    """The rows, with the last of each group as a demonstration where the method has some."""
    if Need.DEMONSTRATIONS not in needs(objective):
        return ragged
    return replace(ragged, demonstration=np.repeat(ragged.index == 3, ragged.length))


def batch_of(ragged: RaggedBatch, seed: int) -> Batch:
    """Return the batch with statistics of a policy near the engine's, and values of a critic."""
    draw = torch.Generator().manual_seed(seed)
    noise, entropy, square, part, ref, values = torch.rand(6, *ragged.shape, generator=draw)
    batch = make_batch(ragged, Moments(noise, entropy, square, -part), seed=1)
    near = (batch.logp_rollout + 0.1 * noise) * batch.valid
    batch = replace(batch, supplied={"values": values * batch.valid})
    return replace(batch, statistics=batch.statistics._replace(logp=near), logp_ref=-ref * batch.valid)


def planned(ragged: RaggedBatch, ranks: int, updates: int) -> Plan:
    return make_plan(
        ragged.packed_length,
        ragged.group,
        ranks=ranks,
        micro_batch_tokens=8192,
        updates_per_batch=updates,
        epochs=1,
    )


def prepared_of(objective: Objective, batch: Batch, plan: Plan) -> Prepared:
    return objective.prepare(batch, [torch.tensor(sweep.rows) for sweep in plan.updates], objective.start())


def sent(objective: Objective, prepared: Prepared, ragged: RaggedBatch, plan: Plan, rank: int) -> list[bytes]:
    """Return what rank 0 deals one rank."""
    told = ragged.for_updates(objective.updates_read)
    return [share_of(told, plan, rank).to_bytes(), prepared_columns.to_bytes(prepared, plan.rows_of(rank))]


def value_loss(objective: Objective, prepared: Prepared, update: int, rows: torch.Tensor) -> torch.Tensor:
    """Return a loss of values that have changed; 0 without a critic."""
    if prepared.returns is None:
        return torch.zeros(())
    now = prepared.batch.supplied["values"][rows] + 1
    return critic_terms.loss(objective.critic, prepared, update, rows, now).loss


@pytest.mark.parametrize("method", RUNNABLE)
def test_rank_0_sends_at_most_ten_bytes_for_a_token_to_all_ranks_together(method: str) -> None:
    """Twelve where advantage and target differ from token to token."""
    objective = objective_of(method)
    rows = rows_of(objective, LONG)
    batch = batch_of(rows, 0)
    most = 12 if Need.CRITIC in needs(objective) else 10
    for ranks, updates in ((2, 4), (8, 1)):
        plan = planned(LONG, ranks, updates)
        prepared = prepared_of(objective, batch, plan)
        parts = [part for rank in range(1, ranks) for part in sent(objective, prepared, rows, plan, rank)]
        assert sum(map(len, parts)) <= most * LONG.length.sum()


@settings(max_examples=3)
@given(st.integers(0, 1000), st.integers(2, 4), st.integers(1, 2))
@pytest.mark.parametrize("method", RUNNABLE)
def test_the_loss_of_a_share_is_that_of_its_responses_in_the_whole_batch(
    method: str, seed: int, ranks: int, updates: int
) -> None:
    objective = objective_of(method)
    ragged = make_toy_rows(groups=4, group_size=4, seed=seed)
    ragged = rows_of(objective, replace(ragged, answer=np.arange(16) % 3))
    plan = planned(ragged, ranks, updates)
    batch = batch_of(ragged, seed)
    prepared = prepared_of(objective, batch, plan)
    for rank in range(1, ranks):
        rows = torch.tensor(plan.rows_of(rank))
        told, fixed = sent(objective, prepared, ragged, plan, rank)
        share = Share.from_bytes(told)
        statistics = Moments(*(values[rows] for values in batch.statistics))
        logp_ref = None if batch.logp_ref is None else batch.logp_ref[rows]
        own = objective.seen(make_batch(share.ragged, statistics, seed=1, logp_ref=logp_ref))
        own = replace(own, supplied={name: values[rows] for name, values in batch.supplied.items()})
        terms = [term.tokens is not None for term in objective.kl]
        there = prepared_columns.from_bytes(fixed, share.ragged, own, terms)
        for update, parts in enumerate(share.updates):
            for part in parts:
                places = ((prepared, rows[list(part)]), (there, torch.tensor(part, dtype=torch.int64)))
                losses = []
                for known, chosen in places:
                    logp = (known.batch.statistics.logp[chosen] - 0.05).requires_grad_()
                    entropy = known.batch.statistics.entropy[chosen].clone().requires_grad_()
                    found = objective.token_loss(known, update, chosen, logp, entropy, objective.start())
                    gradient = torch.autograd.grad(found.loss, (logp, entropy), allow_unused=True)
                    losses.append((found, gradient))
                values = [value_loss(objective, known, update, chosen) for known, chosen in places]
                assert torch.equal(*values)
                (ours, ours_by), (theirs, theirs_by) = losses
                assert torch.equal(ours.loss, theirs.loss)
                assert ours.sums == theirs.sums and ours.maxima == theirs.maxima
                for one, other in zip(ours_by, theirs_by, strict=True):
                    assert (one is None) == (other is None) and (one is None or torch.equal(one, other))
