"""The curve through means of ten batches finds what was put in, and does not claim what it cannot know."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from isentrope.report.fit import WINDOW, fit, rolling_mean, window_means

FINITE = st.floats(-10, 10, allow_nan=False)


@given(a=st.floats(0.05, 1.0), b=st.floats(0.2, 2.0))
def test_points_on_a_curve_give_its_constants_back(a: float, b: float) -> None:
    h = np.linspace(0.1, 1.2, 8)
    found = fit(h, b - a * np.exp(h))
    assert found is not None
    assert (found.a, found.b) == pytest.approx((a, b), rel=1e-6)
    assert found.r2 == pytest.approx(1.0)
    assert found.residual == pytest.approx(0.0, abs=1e-9)
    assert found.ceiling == pytest.approx(float(found.at(np.zeros(1))[0]))
    assert found.r2_line < found.r2


def test_a_line_is_better_described_by_a_line() -> None:
    h = np.linspace(0.1, 1.2, 8)
    found = fit(h, 1.0 - 0.5 * h)
    assert found is not None
    assert found.r2_line == pytest.approx(1.0)
    assert found.r2 < 1.0


@pytest.mark.parametrize("entropy", [[0.5, 0.4], [0.3, 0.3, 0.3, 0.3]])
def test_too_few_points_or_none_apart_give_no_curve(entropy: list[float]) -> None:
    assert fit(np.asarray(entropy), np.linspace(0.4, 0.5, len(entropy))) is None


@given(st.lists(FINITE, max_size=65))
def test_window_means_leave_out_an_incomplete_window(values: list[float]) -> None:
    means = window_means(values)
    assert len(means) == len(values) // WINDOW
    for place, mean in enumerate(means):
        assert mean == pytest.approx(np.mean(values[place * WINDOW : (place + 1) * WINDOW]), abs=1e-9)


@given(st.lists(FINITE, min_size=1, max_size=65))
def test_rolling_mean_stays_within_the_values_around(values: list[float]) -> None:
    means = rolling_mean(values)
    assert len(means) == len(values)
    for place, mean in enumerate(means):
        around = values[max(0, place - WINDOW // 2) : place + WINDOW // 2]
        assert min(around) - 1e-9 <= mean <= max(around) + 1e-9
