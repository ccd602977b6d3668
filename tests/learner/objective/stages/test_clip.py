"""Surrogates: value and gradient on a handful of tokens, worked out by hand."""

import math

import pytest
import torch
from torch import Tensor

from isentrope.learner.objective.stages import clip

RATIO = torch.tensor([[0.5, 0.9, 1.1, 2.0]], dtype=torch.float64)


def value_and_gradient(loss: Tensor, leaf: Tensor) -> tuple[list[float], list[float]]:
    (gradient,) = torch.autograd.grad(loss.sum(), leaf)
    return [round(x, 10) for x in loss.flatten().tolist()], [round(x, 10) for x in gradient.flatten().tolist()]


def test_ppo_cuts_only_what_has_gone_where_the_advantage_pushes() -> None:
    for sign, values, gradients in (
        (1.0, [-0.5, -0.9, -1.1, -1.28], [-1.0, -1.0, -1.0, 0.0]),
        (-1.0, [0.8, 0.9, 1.1, 2.0], [0.0, 1.0, 1.0, 1.0]),
    ):
        leaf = RATIO.clone().requires_grad_()
        loss = clip.ppo(leaf, torch.full_like(RATIO, sign), low=0.2, high=0.28)
        assert value_and_gradient(loss, leaf) == (values, gradients)


def test_preserving_bounds_a_gradient_instead_of_cutting_it() -> None:
    for sign, values, gradients in (
        # 1.28 / 2 of the slope is left above the bound, 0.5 * 0.8 / 0.5 below it
        (1.0, [-0.5, -0.9, -1.1, -1.28], [-1.0, -1.0, -1.0, -0.64]),
        (-1.0, [0.4, 0.9, 1.1, 1.5], [0.8, 1.0, 1.0, 0.0]),
    ):
        leaf = RATIO.clone().requires_grad_()
        keys = {"low": 0.2, "high": 0.28, "below": 0.5, "above": 1.0, "dual": 1.5}
        assert value_and_gradient(clip.preserving(leaf, torch.full_like(RATIO, sign), **keys), leaf) == (
            values,
            gradients,
        )


def test_gamma_weight_is_one_number_for_a_response_and_one_where_nothing_has_moved() -> None:
    logp = torch.full((3, 2), -1.0, dtype=torch.float64, requires_grad=True)
    log_ratio = torch.tensor([[0.0, 0.0], [math.log(2.0), 5.0], [math.log(2.0), 5.0]], dtype=torch.float64)
    advantage = torch.tensor([[1.0, 1.0], [1.0, 1.0], [-1.0, -1.0]], dtype=torch.float64)
    mask = torch.tensor([[True, True], [True, False], [True, False]])
    loss = clip.gamma_weight(log_ratio, logp, advantage, mask)
    (gradient,) = torch.autograd.grad(loss.sum(), logp)
    # W = 2: 2^2 e^-3 for a right response, 2^3 e^-2 for a wrong one
    assert gradient[:, 0].tolist() == pytest.approx([-1.0, -4 * math.exp(-3), 8 * math.exp(-2)])
    assert gradient[1, 1] == gradient[1, 0], "its own ratio is off the mask"


def test_dual_bounds_what_is_lost_on_a_negative_advantage() -> None:
    leaf = torch.tensor([[5.0, 2.0]], requires_grad=True)
    loss = clip.ppo(leaf, torch.tensor([[-1.0, -1.0]]), dual=3.0)
    assert value_and_gradient(loss, leaf) == ([3.0, 2.0], [0.0, 1.0])
    assert clip.ppo(leaf, torch.tensor([[1.0, 1.0]]), dual=3.0).tolist() == [[pytest.approx(-1.2)] * 2]


def test_none_is_the_importance_weighted_advantage() -> None:
    assert clip.none(RATIO, torch.full_like(RATIO, 2.0)).tolist() == [[-1.0, -1.8, -2.2, -4.0]]


def test_mask_cuts_the_same_tokens_and_keeps_the_score_of_the_others() -> None:
    logp = torch.tensor([[-1.0, -1.0, -1.0, -1.0]], dtype=torch.float64, requires_grad=True)
    loss = clip.mask(RATIO, logp, torch.ones_like(RATIO), low=0.2, high=0.28)
    assert value_and_gradient(loss, logp) == ([1.0, 1.0, 1.0, 0.0], [-1.0, -1.0, -1.0, 0.0])


def test_truncated_ratio_leaves_every_token_a_gradient() -> None:
    logp = torch.full_like(RATIO, -1.0).requires_grad_()
    loss = clip.truncated_ratio(logp.exp() * RATIO * math.e, logp, torch.ones_like(RATIO), low=1.0, high=0.5)
    assert value_and_gradient(loss, logp)[1] == [-0.5, -0.9, -1.1, -1.5]


def test_soft_gate_has_slope_one_at_ratio_one_on_both_sides() -> None:
    leaf = torch.ones(1, 2, dtype=torch.float64, requires_grad=True)
    loss = clip.soft_gate(leaf, torch.tensor([[1.0, -1.0]], dtype=torch.float64), positive=1.0, negative=2.0)
    # sigmoid(0) 4 / tau
    assert value_and_gradient(loss, leaf) == ([-2.0, 1.0], [-1.0, 1.0])


def test_geometric_mean_clips_each_log_ratio_before_it_averages() -> None:
    log_ratio = torch.tensor([[0.1, 0.9, 5.0]], dtype=torch.float64, requires_grad=True)
    mask = torch.tensor([[True, True, False]])
    loss = clip.geometric_mean(log_ratio, torch.full((1, 3), 2.0, dtype=torch.float64), mask, low=0.4, high=0.4)
    expected = -2 * math.exp((0.1 + 0.4) / 2)
    assert loss.tolist() == [[pytest.approx(expected)] * 3]
    (gradient,) = torch.autograd.grad(loss[0, 0], log_ratio)
    assert gradient.tolist() == [[pytest.approx(expected / 2), 0.0, 0.0]]


def test_total_variation_bounds_the_change_of_the_probability() -> None:
    logp = torch.tensor([[0.5, 0.8, 0.1]], dtype=torch.float64).log().requires_grad_()
    anchor = torch.tensor([[0.45, 0.5, 0.5]], dtype=torch.float64).log()
    ratio = (logp - anchor).exp()
    loss = clip.total_variation(ratio, logp, anchor, torch.ones_like(anchor), low=0.2, high=0.2, cap=1.05)
    # the second went up by 0.3; the third went down, which a positive advantage does not hold back; ratios are capped
    assert value_and_gradient(loss, logp)[1] == [-1.05, 0.0, -0.2]


def test_divergence_bounds_the_kl_of_token_or_another() -> None:
    logp = torch.tensor([[0.9, 0.55]], dtype=torch.float64).log().requires_grad_()
    anchor = torch.full((1, 2), 0.5, dtype=torch.float64).log()
    # KL(0.5 | 0.9) = 0.51, KL(0.5 | 0.55) = 0.005
    loss = clip.divergence((logp - anchor).exp(), logp, anchor, torch.ones_like(anchor), low=0.05, high=0.05)
    assert value_and_gradient(loss, logp)[1] == [0.0, -1.1]


def test_score_function() -> None:
    assert clip.score_function(torch.tensor([[-2.0]]), torch.tensor([[3.0]])).item() == 6.0
