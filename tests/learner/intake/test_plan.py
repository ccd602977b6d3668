"""Properties of plans, for any batch: what every rank relies on without asking the others."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from isentrope.learner.intake.plan import Plan, Sweep, make_plan, make_sweep
from isentrope.rollout.wire.types import Int64


@dataclass(frozen=True)
class Case:
    lengths: Int64
    groups: Int64
    ranks: int
    budget: int
    updates: int
    epochs: int
    padded: bool

    def plan(self) -> Plan:
        return make_plan(
            self.lengths,
            self.groups,
            ranks=self.ranks,
            micro_batch_tokens=self.budget,
            updates_per_batch=self.updates,
            epochs=self.epochs,
            padded=self.padded,
        )

    def tokens(self, rows: tuple[int, ...]) -> int:
        return int(self.lengths[list(rows)].sum())

    def seen(self, rows: tuple[int, ...]) -> int:
        """Return the tokens that the network sees of a micro-batch."""
        longest = int(self.lengths[list(rows)].max(initial=0))
        return len(rows) * longest if self.padded else self.tokens(rows)

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
        padded=draw(st.booleans()),
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
            assert all(len(rows) <= 1 or case.seen(rows) <= case.budget for rows in share)


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


LAWS: dict[str, tuple[int, Callable[[np.random.Generator], NDArray[Any]]]] = {
    "lognormal, mean 2000, at most 8192": (16384, lambda draw: _lognormal(draw, 2000).clip(8, 8192)),
    "lognormal, mean 6000, at most 32768": (32768, lambda draw: _lognormal(draw, 6000).clip(8, 32768)),
    "lognormal, mean 250, at most 1024": (16384, lambda draw: _lognormal(draw, 250).clip(8, 1024)),
    "a tenth of 8192, the rest of 800": (16384, lambda draw: np.where(draw.random(1024) < 0.1, 8192, 800)),
    "uniform, at most 8192": (16384, lambda draw: draw.integers(1, 8192, 1024)),
    "half of 200, half of 4000": (8192, lambda draw: np.where(draw.random(1024) < 0.5, 200, 4000)),
    "exponential, mean 1000": (16384, lambda draw: draw.exponential(1000, 1024).clip(1, 16384)),
    "Pareto": (32768, lambda draw: (300 * (1 + draw.pareto(1.3, 1024))).clip(1, 32768)),
}
"""Limit of tokens, and lengths of responses."""


def _lognormal(draw: np.random.Generator, mean: int) -> NDArray[np.float64]:
    return draw.lognormal(np.log(mean) - 0.5, 1.0, 1024)


@pytest.mark.parametrize("ranks", [1, 8])
@pytest.mark.parametrize("law", LAWS)
def test_little_is_padding_where_rows_are_padded(law: str, ranks: int) -> None:
    limit, drawn = LAWS[law]
    lengths = drawn(np.random.default_rng(1)).astype(np.int64)
    sweep = make_sweep(lengths, range(len(lengths)), ranks, limit, padded=True)
    areas = [len(rows) * int(lengths[list(rows)].max(initial=0)) for share in sweep.shares for rows in share]
    assert max(areas) <= limit
    assert sum(areas) <= 1.05 * lengths.sum()
