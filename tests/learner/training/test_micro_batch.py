"""On a GPU one fused call stands for the objective: same loss, same gradient, and not a monitor less."""

from dataclasses import replace

import pytest
import torch
from batches import objective_of
from torch import Tensor
from toy_batch import VOCABULARY, make_toy_rows, padded

from isentrope.kernels.policy import LossRules
from isentrope.learner.intake.packing import Packed, pack
from isentrope.learner.objective.kernel_rules import rules_of
from isentrope.learner.training.micro_batch import UpdateLoss

TEMPERATURE = 0.7
RAGGED = make_toy_rows(groups=3, group_size=4, number=2)
ROWS = [5, 0, 7, 10]


@pytest.fixture
def logits() -> Tensor:
    torch.manual_seed(0)
    return torch.randn(len(pack(RAGGED, ROWS).target), VOCABULARY)


def loss_of(method: str, logits: Tensor) -> tuple[UpdateLoss, Packed, LossRules]:
    """The loss of the second update, whose policy has moved from the one before the batch."""
    objective = objective_of(method)
    rules = rules_of(objective)
    assert rules is not None
    batch, packed = padded(RAGGED), pack(RAGGED, ROWS)
    now = torch.log_softmax(logits / TEMPERATURE, -1).gather(1, packed.target[:, None])[:, 0]
    old = batch.logp_rollout.clone()
    old[ROWS] = packed.to_padded(now + 0.3 * torch.randn(now.shape))
    rollout = old + 0.2 * torch.randn(old.shape) * batch.mask
    batch = replace(padded(RAGGED, old, torch.rand(batch.mask.shape) * batch.mask), logp_rollout=rollout)
    prepared = objective.prepare(batch, [torch.arange(len(batch.group))] * 2)
    return UpdateLoss(objective, rules, prepared, 1, {}), packed, rules


@pytest.mark.parametrize("method", ["grpo", "dapo", "kl_cov", "clip_cov", "top_entropy", "tis"])
def test_one_call_is_the_objective(method: str, logits: Tensor) -> None:
    loss_by, packed, rules = loss_of(method, logits)
    found = []
    for way in (loss_by, lambda packed, *rest: loss_by.by_kernel(packed, rules, *rest)):
        leaf = logits.clone().requires_grad_()
        loss, part = way(packed, TEMPERATURE, leaf * 1.0, packed.target)
        loss.backward()
        assert leaf.grad is not None and leaf.grad.any()
        found.append((loss.detach(), leaf.grad, part))
    (loss, gradient, part), (fused_loss, fused_gradient, fused_part) = found
    torch.testing.assert_close(fused_loss, loss, rtol=1e-5, atol=1e-7)
    assert float((fused_gradient - gradient).abs().max()) <= 1e-5 * float(gradient.abs().max())
    for ours, theirs in ((fused_part.sums, part.sums), (fused_part.maxima, part.maxima)):
        assert ours.keys() == theirs.keys()
        for name, value in theirs.items():
            torch.testing.assert_close(
                ours[name], value, rtol=1e-4, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}"
            )


def test_a_rank_without_work_adds_exactly_nothing() -> None:
    objective = objective_of("grpo")
    batch = padded(RAGGED, padded(RAGGED).logp_rollout)
    prepared = objective.prepare(batch, [torch.arange(len(batch.group))])
    packed = pack(RAGGED, [])
    leaf = torch.randn(0, VOCABULARY, requires_grad=True)
    loss, _ = UpdateLoss(objective, None, prepared, 0, {})(packed, 1.0, leaf, packed.target)
    loss.backward()
    assert float(loss.detach()) == 0.0


def test_the_loss_of_tokens_chosen_among_the_likeliest_is_that_of_logits_without_the_others(logits: Tensor) -> None:
    """Value, monitors of the ratio and gradient; entropies stay those of the whole distribution."""
    loss_by, packed, _ = loss_of("grpo", logits)
    draw = torch.Generator().manual_seed(3)
    inside = (torch.rand(logits.shape, generator=draw) < 0.4).scatter(1, packed.target[:, None], True)
    kept = torch.where(inside, torch.arange(VOCABULARY), VOCABULARY).sort(1).values
    masked = replace(packed, kept=kept.where(kept < VOCABULARY, -1))
    found = []
    for given, limits in ((masked, logits), (packed, logits.masked_fill(~inside, -torch.inf))):
        leaf = limits.clone().requires_grad_()
        loss, part = loss_by(given, TEMPERATURE, leaf, packed.target)
        loss.backward()
        assert leaf.grad is not None and leaf.grad.any() and not leaf.grad[~inside].any()
        found.append((loss.detach(), leaf.grad, part.sums))
    (loss, gradient, sums), (expected, its_gradient, its_sums) = found
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(gradient, its_gradient, rtol=1e-5, atol=1e-7)
    whole = loss_by(packed, TEMPERATURE, logits, packed.target)[1].sums
    assert float(sums["entropy"]) == float(whole["entropy"]) > float(its_sums["entropy"])
    assert float(abs(expected - loss_by(packed, TEMPERATURE, logits, packed.target)[0])) > 1e-3
