"""Properties of plans, for any batch: what every rank relies on without asking the others."""

from dataclasses import dataclass

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from isentrope.learner.intake.plan import Plan, Sweep, make_plan
from isentrope.rollout.wire.types import Int64


@dataclass(frozen=True)
class Case:
    lengths: Int64
    groups: Int64
    ranks: int
    budget: int
    updates: int
    epochs: int

    def plan(self) -> Plan:
        return make_plan(
            self.lengths,
            self.groups,
            ranks=self.ranks,
            micro_batch_tokens=self.budget,
            updates_per_batch=self.updates,
            epochs=self.epochs,
        )

    def tokens(self, rows: tuple[int, ...]) -> int:
        return int(self.lengths[list(rows)].sum())

    def sweeps(self) -> list[Sweep]:
        plan = self.plan()
        return [plan.statistics, *plan.updates]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    sizes = draw(st.lists(st.integers(1, 6), min_size=1, max_size=12))
    count = sum(sizes)
    lengths = draw(st.lists(st.integers(1, 200), min_size=count, max_size=count))
    return Case(
        np.array(lengths),
        np.repeat(np.arange(len(sizes)), sizes),
        ranks=draw(st.integers(1, 5)),
        budget=draw(st.integers(1, 400)),
        updates=draw(st.integers(1, 6)),
        epochs=draw(st.integers(1, 3)),
    )


@given(cases())
def test_every_response_is_in_exactly_one_micro_batch_of_every_sweep(case: Case) -> None:
    for sweep in case.sweeps():
        given_out = [row for share in sweep.shares for rows in share for row in rows]
        assert sorted(given_out) == list(sweep.rows)


@given(cases())
def test_every_epoch_trains_every_response_once_by_whole_groups(case: Case) -> None:
    plan = case.plan()
    per_epoch = len(plan.updates) // case.epochs
    assert plan.statistics.rows == tuple(range(len(case.lengths)))
    assert len(plan.updates) == per_epoch * case.epochs
    for first in range(0, len(plan.updates), per_epoch):
        epoch = plan.updates[first : first + per_epoch]
        assert sorted(row for update in epoch for row in update.rows) == list(range(len(case.lengths)))
        owners = [set(case.groups[list(update.rows)].tolist()) for update in epoch]
        assert sum(len(owner) for owner in owners) == len(np.unique(case.groups))


@given(cases())
def test_updates_have_groups_each_and_like_numbers_of_them(case: Case) -> None:
    sizes = [len(np.unique(case.groups[list(update.rows)])) for update in case.plan().updates]
    assert len(sizes) == case.epochs * min(case.updates, len(np.unique(case.groups)))
    assert min(sizes) >= 1
    assert max(sizes) - min(sizes) <= 1


@given(cases())
def test_all_ranks_run_the_same_number_of_micro_batches(case: Case) -> None:
    for sweep in case.sweeps():
        assert len(sweep.shares) == case.ranks
        assert len({len(share) for share in sweep.shares}) == 1
        assert len(sweep.shares[0]) >= 1


@given(cases())
def test_a_micro_batch_is_within_the_budget_or_a_single_response(case: Case) -> None:
    for sweep in case.sweeps():
        for share in sweep.shares:
            assert all(len(rows) <= 1 or case.tokens(rows) <= case.budget for rows in share)


@given(cases())
def test_ranks_differ_by_at_most_the_longest_response(case: Case) -> None:
    for sweep in case.sweeps():
        loads = [sum(case.tokens(rows) for rows in share) for share in sweep.shares]
        assert max(loads) - min(loads) <= case.lengths[list(sweep.rows)].max()


@given(cases())
def test_no_rank_idles_in_a_micro_batch_while_it_has_two_responses_in_another(case: Case) -> None:
    for sweep in case.sweeps():
        for share in sweep.shares:
            assert not (any(not rows for rows in share) and any(len(rows) > 1 for rows in share))


def test_equal_responses_fill_the_fewest_micro_batches() -> None:
    plan = make_plan(
        np.full(256, 21),
        np.repeat(np.arange(32), 8),
        ranks=2,
        micro_batch_tokens=21 * 64,
        updates_per_batch=8,
        epochs=1,
    )
    assert len(plan.statistics.shares[0]) == 2
    assert [len(update.shares[0]) for update in plan.updates] == [1] * 8


def test_a_response_longer_than_the_budget_does_not_multiply_the_micro_batches() -> None:
    lengths = np.array([1000, 10, 10, 10])
    plan = make_plan(lengths, np.zeros(4, np.int64), ranks=1, micro_batch_tokens=30, updates_per_batch=1, epochs=1)
    assert plan.statistics.shares == (((0,), (1, 2, 3)),)
