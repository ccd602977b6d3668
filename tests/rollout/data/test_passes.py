"""The promised order holds from any place on, and every pass covers each row once."""

import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from isentrope.errors import DataError
from isentrope.rollout.data.passes import OrderedPasses, ShuffledPasses, scored_order

VALUES = st.lists(st.sampled_from([-1.5, 0.0, 0.25, 0.5, 1.0]), min_size=1, max_size=30)


@given(values=VALUES, descending=st.booleans(), begin=st.integers(0, 10**9))
def test_scores_order_every_pass_from_wherever_a_run_resumes(values: list[float], descending: bool, begin: int) -> None:
    order = scored_order("scored:x" + " descending" * descending)
    assert order is not None
    rows = OrderedPasses(order.rows(np.array(values)), 1, 1, seed=0)
    whole = begin - begin % len(values)
    seen = [rows.row(place) for place in range(whole, whole + len(values))]
    assert seen == sorted(range(len(values)), key=lambda row: ((-values[row] if descending else values[row]), row))
    assert rows.row(begin) == seen[begin % len(values)]


@given(count=st.integers(1, 40), seed=st.integers(0, 2**63 - 1), data=st.data())
def test_stages_follow_each_other_and_each_is_passed_over_as_often_as_said(
    count: int, seed: int, data: st.DataObject
) -> None:
    stages = data.draw(st.integers(1, min(count, 5)))
    passes = data.draw(st.integers(1, 4)) if stages > 1 else 1
    cycle = data.draw(st.integers(0, 10**6))
    order = np.arange(count)[::-1]
    first, again = (OrderedPasses(order, stages, passes, seed) for _ in range(2))
    places = range(cycle * count * passes, (cycle + 1) * count * passes)
    seen = [first.row(place) for place in places]
    assert seen == [again.row(place) for place in reversed(places)][::-1], "whatever was asked for before"
    assert Counter(seen) == dict.fromkeys(range(count), passes)
    starts = [count * stage // stages for stage in range(stages + 1)]
    for start, end in itertools.pairwise(starts):
        block = order[start:end].tolist()
        for each in range(passes):
            begin = start * passes + each * len(block)
            assert sorted(seen[begin : begin + len(block)]) == sorted(block)


def test_the_passes_over_a_stage_differ() -> None:
    rows = OrderedPasses(np.arange(60), 2, 2, seed=7)
    passes = [tuple(rows.row(30 * number + i) for i in range(30)) for number in range(8)]
    assert len(set(passes)) == 8


def test_files_of_equal_length_are_shuffled_differently() -> None:
    orders = [[ShuffledPasses(20, 5, file).row(place) for place in range(20)] for file in range(3)]
    assert len({tuple(order) for order in orders}) == 3


def test_the_order_within_stages_is_pinned() -> None:
    """The stream is part of the format: a run resumed by a later version must see the same prompts."""
    rows = OrderedPasses(np.arange(6), 2, 2, seed=1)
    assert [rows.row(place) for place in range(12)] == [2, 0, 1, 1, 0, 2, 3, 5, 4, 5, 3, 4]


def test_more_stages_than_rows_are_refused() -> None:
    with pytest.raises(DataError, match="2 rows cannot be cut into 3 stages"):
        OrderedPasses(np.arange(2), 3, 1, seed=0)


def test_orders_are_read() -> None:
    assert scored_order("shuffled") is None and scored_order("file") is None
    found = scored_order("scored:a.b descending")
    assert found is not None and (found.column, found.descending) == ("a.b", True)
