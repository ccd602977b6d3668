"""Auxiliary terms, worked out by hand."""

import math

import torch

from isentrope.learner.objective.stages import auxiliary


def test_positive_nll_is_on_correct_responses() -> None:
    logp, correct = torch.tensor([[-1.0, -2.0], [-3.0, -4.0]]), torch.tensor([True, False])
    assert auxiliary.positive_nll(logp, correct, coef=0.5).tolist() == [[0.5, 1.0], [0.0, 0.0]]
    mask = torch.tensor([[True, False], [True, True]])
    assert auxiliary.positive_nll_set(correct, mask).tolist() == [[True, False], [False, False]]


def test_high_prob_push_raises_likely_tokens_whatever_the_sign() -> None:
    logp = torch.tensor([[math.log(0.99), math.log(0.5), math.log(0.99)]], requires_grad=True)
    ratio = (logp - logp.detach()).exp()
    loss = auxiliary.high_prob_push(ratio, logp, torch.tensor([[2.0, 2.0, -1.0]]), coef=0.5, threshold=0.95)
    (gradient,) = torch.autograd.grad(loss.sum(), logp)
    assert gradient.tolist() == [[-1.0, 0.0, -0.5]]


def test_the_likelihood_of_demonstrations_counts_right_or_wrong() -> None:
    logp, shown = torch.tensor([[-1.0, -2.0], [-3.0, -4.0]]), torch.tensor([[False, False], [True, True]])
    assert auxiliary.demonstration_nll(logp, shown, coef=0.5).tolist() == [[0.0, 0.0], [1.5, 2.0]]
    mask = torch.tensor([[True, True], [True, False]])
    assert auxiliary.demonstration_nll_set(shown, mask).tolist() == [[False, False], [True, False]]


def test_demonstrations_stress_improbable_tokens() -> None:
    p = torch.tensor([[0.1, 0.9, 0.1]], dtype=torch.float64)
    logp = p.log().requires_grad_()
    shown = torch.tensor([[True, True, False]])
    loss = auxiliary.shaped_demonstration(logp, torch.ones_like(p), shown, gamma=0.1)
    (gradient,) = torch.autograd.grad(loss.sum(), logp)
    # -gamma p / (p + gamma)^2
    torch.testing.assert_close(gradient, torch.tensor([[-0.25, -0.09, 0.0]]).double())
    assert auxiliary.shaped_demonstration(logp, torch.ones_like(p), shown, shape="power", power=0.5)[0, 0] == -(
        0.1**0.5
    )
    linear = auxiliary.shaped_demonstration(logp, torch.ones_like(p), shown, shape="linear", low=0.2, high=0.8)
    torch.testing.assert_close(linear, torch.tensor([[-0.2, -0.8, 0.0]]).double())
