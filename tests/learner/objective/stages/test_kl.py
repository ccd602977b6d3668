"""Divergence estimators: value and gradient at a few log ratios, worked out by hand."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from isentrope.learner.objective.stages import kl

X = [-1.0, 0.0, 2.0]


@pytest.mark.parametrize(
    ("estimator", "value", "gradient"),
    [
        (kl.k1, lambda x: x, lambda x: 1.0),
        (kl.absolute, abs, lambda x: (x > 0) - (x < 0)),
        (kl.k2, lambda x: x * x / 2, lambda x: x),
        (kl.k3, lambda x: math.exp(-x) - 1 + x, lambda x: 1 - math.exp(-x)),
    ],
)
def test_value_and_gradient(
    estimator: Callable[[Tensor], Tensor], value: Callable[[float], float], gradient: Callable[[float], float]
) -> None:
    x = torch.tensor(X, dtype=torch.float64, requires_grad=True)
    found = estimator(x)
    (slope,) = torch.autograd.grad(found.sum(), x)
    assert found.tolist() == pytest.approx([value(v) for v in X], abs=1e-12)
    assert slope.tolist() == pytest.approx([gradient(v) for v in X], abs=1e-12)


def test_output_clamp_takes_the_gradient_from_what_drifted_most() -> None:
    x = torch.tensor([-5.0], requires_grad=True)
    (slope,) = torch.autograd.grad(kl.k3(x, output_clamp=10.0).sum(), x)
    assert slope.item() == 0.0


def test_sequence_k2_sums_to_half_the_squared_log_ratio() -> None:
    x, mask = torch.tensor([[1.0, 2.0, 9.0]]), torch.tensor([[True, True, False]])
    assert (kl.sequence_k2(x, mask) * mask).sum().item() == pytest.approx(4.5)


def test_importance_weighting_makes_the_gradient_unbiased() -> None:
    """The gradient of q k3 is q x, that of q k1's expectation without its constant."""
    logp = torch.tensor([-0.3, -2.0], dtype=torch.float64, requires_grad=True)
    sampled, ref = torch.tensor([-0.5, -1.0]).double(), torch.tensor([-1.0, -0.2]).double()
    (slope,) = torch.autograd.grad(kl.importance_weighted(kl.k3(logp - ref), logp, sampled).sum(), logp)
    expected = (logp - sampled).exp() * (logp - ref)
    torch.testing.assert_close(slope, expected.detach())


def test_straight_through_keeps_the_value() -> None:
    x = torch.tensor([0.7], requires_grad=True)
    found = kl.with_k2_gradient(kl.absolute(x), x)
    (slope,) = torch.autograd.grad(found.sum(), x)
    assert found.item() == pytest.approx(0.7) and slope.item() == pytest.approx(0.7)
