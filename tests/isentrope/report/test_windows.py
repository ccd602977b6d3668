"""Means over windows of batches."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from isentrope.report.windows import WINDOW, mean, rolling_mean, window_means

FINITE = st.floats(-10, 10, allow_nan=False)


@given(st.lists(FINITE, max_size=65))
def test_window_means_leave_out_an_incomplete_window(values: list[float]) -> None:
    means = window_means(values)
    assert len(means) == len(values) // WINDOW
    for place, found in enumerate(means):
        assert found == pytest.approx(np.mean(values[place * WINDOW : (place + 1) * WINDOW]), abs=1e-9)


@given(st.lists(FINITE, min_size=1, max_size=65))
def test_rolling_mean_stays_within_the_values_around(values: list[float]) -> None:
    means = rolling_mean(values)
    assert len(means) == len(values)
    for place, found in enumerate(means):
        around = values[max(0, place - WINDOW // 2) : place + WINDOW // 2]
        assert min(around) - 1e-9 <= found <= max(around) + 1e-9


def test_a_mean_of_what_has_none_is_no_error() -> None:
    assert mean([1.0, 2.0]) == 1.5
    assert all(math.isnan(mean(values)) for values in ([], [math.nan], [1e308, 1e308], [math.inf, -math.inf]))
