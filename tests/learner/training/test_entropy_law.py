"""The entropy law's fit."""

import math

import numpy as np
import pytest

from isentrope.learner.training import entropy_law


def test_recovers_the_line_it_was_made_of() -> None:
    entropy = [1.0, 0.7, 0.4, 0.1]
    fitted = entropy_law.fit(entropy, [0.6 - 0.2 * math.exp(h) for h in entropy])
    assert fitted is not None
    assert (fitted.a, fitted.b, fitted.ceiling, fitted.r2) == pytest.approx((0.2, 0.6, 0.4, 1.0))
    assert fitted.ceiling_low == pytest.approx(fitted.ceiling_high)


def test_interval_holds_the_ceiling_as_often_as_it_says() -> None:
    draw = np.random.default_rng(0)
    entropy = np.linspace(0.9, 0.2, 12)
    hits = 0
    for _ in range(2000):
        fitted = entropy_law.fit(
            entropy.tolist(), (0.7 - 0.25 * np.exp(entropy) + 0.05 * draw.standard_normal(12)).tolist()
        )
        assert fitted is not None
        hits += fitted.ceiling_low <= 0.45 <= fitted.ceiling_high
    assert hits / 2000 == pytest.approx(0.95, abs=0.02)


@pytest.mark.parametrize("degrees", [1, 2, 3, 5, 10, 100])
def test_students_t(degrees: int) -> None:
    exact = {1: 12.7062, 2: 4.3027, 3: 3.1824, 5: 2.5706, 10: 2.2281, 100: 1.9840}
    assert entropy_law._student_t(degrees) == pytest.approx(exact[degrees], rel=1e-2)


def test_no_line_through_too_little() -> None:
    assert entropy_law.fit([0.5, 0.4], [0.1, 0.2]) is None
    assert entropy_law.fit([0.5, 0.5, 0.5], [0.1, 0.2, 0.3]) is None
    assert entropy_law.fit([], []) is None
