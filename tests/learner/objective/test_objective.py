"""The composition: what holds for every objective, whatever its stages."""

import dataclasses
from pathlib import Path

import batches
import pytest
import torch
from batches import current_policy, gradient, halves, objective_of, random_batch, shared_out

from isentrope.learner.objective.compose import method_names

METHODS = method_names()


def whole(batch):  # type: ignore[no-untyped-def]
    return [[rows] for rows in halves(batch)]


@pytest.mark.parametrize("method", METHODS)
def test_gradient_does_not_depend_on_micro_batches(method: str) -> None:
    batch, objective = random_batch(), objective_of(method)
    expected, loss, sums = gradient(objective, batch, whole(batch))
    assert expected.abs().sum() > 0
    for count in range(2, 9):
        found, other_loss, other_sums = gradient(objective, batch, shared_out(halves(batch), count, seed=count))
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-15)
        assert other_loss == pytest.approx(loss, rel=1e-12)
        assert other_sums == pytest.approx(sums, rel=1e-12)
