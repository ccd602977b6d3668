"""Anchors and levels of the ratio, worked out by hand."""

import torch

from isentrope.learner.objective.stages import ratio


def test_anchors() -> None:
    old, rollout = torch.tensor([[-1.0]]), torch.tensor([[-2.0]])
    assert torch.equal(ratio.old(old), old) and torch.equal(ratio.rollout(rollout), rollout)


def test_interpolated_is_one_batch_back() -> None:
    logp = torch.full((1, 4), -1.0, requires_grad=True)
    found = ratio.interpolated(logp, torch.full((1, 4), -2.0), torch.tensor([[0, 1, 2, 4]]))
    # the share of the way to the current policy: (lag - 1) / lag
    assert found.tolist() == [[-2.0, -2.0, -1.5, -1.25]] and not found.requires_grad


def test_token_ratio_is_clamped_and_then_has_no_gradient() -> None:
    logp = torch.tensor([[0.5, 30.0, -30.0]], requires_grad=True)
    found = ratio.token(logp, torch.zeros(1, 3))
    found.sum().backward()  # type: ignore[no-untyped-call]
    assert found.tolist() == [[0.5, 20.0, -20.0]]
    assert logp.grad is not None and logp.grad.tolist() == [[1.0, 0.0, 0.0]]


def test_sequence_ratio_is_the_mean_with_each_tokens_own_gradient() -> None:
    logp = torch.tensor([[0.2, 0.4, 9.0]], requires_grad=True)
    mask = torch.tensor([[True, True, False]])
    found = ratio.sequence(logp, torch.zeros(1, 3), mask)
    torch.testing.assert_close(found[0, :2], torch.tensor([0.3, 0.3]))
    found[0, 0].backward()  # type: ignore[no-untyped-call]
    assert logp.grad is not None and logp.grad.tolist() == [[1.0, 0.0, 0.0]]


def test_sequence_clamp_acts_on_the_mean() -> None:
    logp = torch.tensor([[60.0, 0.0]])
    assert ratio.sequence(logp, torch.zeros(1, 2), torch.ones(1, 2, dtype=torch.bool)).tolist() == [[20.0, 20.0]]


def test_no_ratio_is_one_with_the_gradient_of_logp() -> None:
    logp = torch.tensor([[-3.0]], requires_grad=True)
    found = ratio.none(logp)
    found.sum().backward()  # type: ignore[no-untyped-call]
    assert found.item() == 0.0 and logp.grad is not None and logp.grad.item() == 1.0
