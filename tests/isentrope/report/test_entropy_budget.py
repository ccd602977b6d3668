"""The entropy budget of a run: one scale from the first half, judged by the second."""

from collections.abc import Callable
from pathlib import Path

import pytest

from isentrope.learner import json_files
from isentrope.learner.records import BatchRow
from isentrope.report.entropy_budget import KINDS, budget_of, text

MakeRun = Callable[..., Path]
PARTS = dict(zip(KINDS, (-3.0, 1.0, 2.0, -4.0), strict=True))
"""In sum -4."""


@pytest.fixture(scope="module")
def lines(make_run: MakeRun) -> list[BatchRow]:
    return list(json_files.read_lines(make_run(), BatchRow))


def with_budget(lines: list[BatchRow], changes: dict[int, float]) -> list[BatchRow]:
    """The lines with equal predictions, and with changes that were measured at some batches."""
    return [
        line.model_copy(
            update={
                "objective": line.objective.model_copy(
                    update={"entropy_budget": PARTS, "entropy_change": changes.get(line.batch)}
                )
            }
        )
        for line in lines
    ]


def test_the_scale_is_of_the_first_half_and_the_error_of_the_second(lines: list[BatchRow]) -> None:
    budget = budget_of(with_budget(lines[:40], {10: -0.04, 20: -0.04, 30: -0.02, 40: 0.01}))
    assert budget is not None
    assert budget.scale == pytest.approx(0.01)
    held = budget.held
    assert (held.predicted, held.unscaled, held.measured) == pytest.approx((-0.08, -8.0, -0.01))
    assert held.same_sign == 0.5 and held.batches == 2


def test_kinds_are_added_up_and_a_measurement_stands_for_the_batches_since_the_last(lines: list[BatchRow]) -> None:
    budget = budget_of(with_budget(lines[:40], {10: -0.04, 20: -0.04, 30: -0.02, 40: 0.01}))
    assert budget is not None
    assert budget.kinds["negative_rare"][-1] == pytest.approx(-4.0 * 0.01 * 40)
    assert budget.total[-1] == pytest.approx(-0.04 * 40)
    assert [value for _, value in budget.measured] == pytest.approx([-0.4, -0.8, -1.0, -0.9])
    assert "punished, rare tokens \u22121.6" in text(budget)


def test_three_measurements_are_too_few(lines: list[BatchRow]) -> None:
    assert budget_of(with_budget(lines[:40], {10: -0.04, 20: -0.04, 30: -0.02})) is None
