"""The whole policy loss and its gradient by the logits against autograd in float64, for every rule."""

import dataclasses

import pytest
import torch
from kernel_truth import RULES, Sample, relative

from isentrope.errors import ArgumentError
from isentrope.kernels.fused import fused_policy_loss, logp_entropy
from isentrope.kernels.policy import LossRules, TokenInputs, coefficients

UPSTREAM = 3.0


@pytest.mark.parametrize("inplace", [True, False])
@pytest.mark.parametrize("name", RULES)
def test_loss_and_gradient_are_those_of_autograd(name: str, inplace: bool) -> None:
    sample, rules = Sample.draw(seed=len(name)), RULES[name]
    leaf = sample.logits.clone().requires_grad_()
    found = fused_policy_loss(leaf * 1, sample.targets, sample.tempered, rules, inplace=inplace)
    (UPSTREAM * found.loss).backward()
    exact = sample.logits.double().requires_grad_()
    expected = sample.loss(exact, rules, found.selected)
    (UPSTREAM * expected).backward()
    assert leaf.grad is not None and exact.grad is not None
    assert abs(found.loss.item() - expected.item()) <= 2e-6 * (1 + abs(expected.item()))
    assert relative(leaf.grad, exact.grad) <= 3e-6
    assert found.selected.any() == (rules.select != "none")


@pytest.mark.parametrize("name", ["kl_cov", "clip_cov", "top_entropy"])
def test_verdicts_of_the_whole_batch_give_its_loss_in_any_number_of_micro_batches(name: str) -> None:
    sample, rules = Sample.draw(), RULES[name]
    leaf = sample.logits.clone().requires_grad_()
    whole = fused_policy_loss(leaf * 1, sample.targets, sample.tokens, rules)
    whole.loss.backward()
    assert leaf.grad is not None
    verdicts = dataclasses.replace(sample.tokens, selected=whole.selected)
    for parts in (1, 5, 16):
        again, total = sample.logits.clone().requires_grad_(), torch.zeros(())
        for rows in torch.arange(len(leaf)).tensor_split(parts):
            part = fused_policy_loss(again[rows], sample.targets[rows], verdicts.take(rows), rules)
            part.loss.backward()
            total += part.loss.detach()
        assert again.grad is not None
        torch.testing.assert_close(total, whole.loss.detach(), rtol=2e-6, atol=1e-7)
        assert relative(again.grad, leaf.grad) <= 2e-6


def test_coefficients_are_the_derivatives_of_their_loss() -> None:
    sample = Sample.draw(200, seed=8)
    logp = (sample.tokens.logp_old + 0.4 * torch.randn(200)).double().requires_grad_()
    entropy = torch.rand(200, dtype=torch.float64, requires_grad=True)
    tokens = TokenInputs(
        advantage=sample.tokens.advantage.double(),
        logp_old=sample.tokens.logp_old.double(),
        mask=sample.tokens.mask,
        weight=torch.rand(200).double(),
        normalizer=torch.tensor([0.25], dtype=torch.float64),
        selected=torch.rand(200) > 0.6,
    )
    for rules in RULES.values():
        loss, by_logp, by_entropy = coefficients(logp, entropy, tokens, rules)
        found = torch.autograd.grad(loss.sum(), (logp, entropy), allow_unused=True)
        assert found[0] is not None
        torch.testing.assert_close(found[0], by_logp.detach(), rtol=1e-12, atol=1e-15)
        torch.testing.assert_close(found[1], by_entropy.detach(), rtol=1e-12, atol=1e-15)


def test_nothing_is_overwritten_where_no_gradient_is_wanted() -> None:
    sample = Sample.draw()
    leaf = sample.logits.clone().requires_grad_()
    logits = leaf * 1
    with torch.no_grad():
        fused_policy_loss(logits, sample.targets, sample.bare, LossRules())
    assert torch.equal(logits.detach(), sample.logits)


@pytest.mark.parametrize("name", ["plain", "kl_cov"])
def test_a_nan_reaches_the_loss(name: str) -> None:
    sample = Sample.draw()
    leaf = sample.logits.clone()
    leaf[4, 7] = torch.nan
    leaf.requires_grad_()
    found = fused_policy_loss(leaf * 1, sample.targets, sample.bare, RULES[name])
    assert found.loss.isnan() and found.token_loss[4].isnan() and found.token_loss[3].isfinite()


def test_whoever_saved_the_logits_is_told_that_they_were_replaced() -> None:
    sample = Sample.draw()
    leaf = sample.logits.clone().requires_grad_()
    logits = leaf * 1
    z_loss = logits.square().sum()
    logp, _ = logp_entropy(logits, sample.targets)
    logp.sum().backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        z_loss.backward()


@pytest.mark.parametrize("function", ["logp_entropy", "fused_policy_loss"])
def test_a_second_backward_pass_is_refused(function: str) -> None:
    sample = Sample.draw()
    logits = sample.logits.clone().requires_grad_() * 1
    if function == "logp_entropy":
        loss = logp_entropy(logits, sample.targets, inplace=False)[0].sum()
    else:
        loss = fused_policy_loss(logits, sample.targets, sample.bare, LossRules()).loss
    loss.backward(retain_graph=True)
    with pytest.raises(ArgumentError, match="second backward"):
        loss.backward()
