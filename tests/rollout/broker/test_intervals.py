"""Intervals hold the numbers that they were made of, and no others."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from isentrope.rollout.broker.intervals import bounds


@given(st.sets(st.integers(0, 60)))
def test_they_hold_exactly_the_numbers(numbers: set[int]) -> None:
    ends = list(bounds(numbers))
    intervals = list(zip(ends[::2], ends[1::2], strict=True))
    assert {number for first, last in intervals for number in range(first, last + 1)} == numbers
    assert all(later > last + 1 for (_, last), (later, _) in pairwise(intervals))


def test_a_million_without_a_gap_are_two_arguments() -> None:
    assert list(bounds(range(1_000_000))) == [0, 999_999]
