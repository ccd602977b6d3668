"""Renormalised log-probabilities are those of logits that are -inf off the kept tokens, in value and gradient."""

import math

import pytest
import torch
from torch import Tensor

from isentrope.kernels import plain
from isentrope.kernels.sampling_mask import renormalised

ROWS, VOCABULARY, TEMPERATURE = 40, 50, 0.7


@pytest.fixture
def kept() -> Tensor:
    """Sets of 1 to 12 tokens, and every fifth row without one."""
    draw = torch.Generator().manual_seed(0)
    sets = torch.full((ROWS, 12), -1)
    for row in range(ROWS):
        if row % 5:
            size = row % 12 + 1
            sets[row, :size] = torch.randperm(VOCABULARY, generator=draw)[:size].sort().values
    return sets


def problem(kept: Tensor, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, targets from the sets, and the logits that are -inf off the sets."""
    logits = 3 * torch.randn(ROWS, VOCABULARY, generator=torch.Generator().manual_seed(1), dtype=dtype)
    targets = kept[:, 0].clamp_min(3)
    targets[kept[:, 0] >= 0] = kept[kept[:, 0] >= 0, 0]
    inside = torch.zeros(ROWS, VOCABULARY + 1, dtype=torch.bool)
    inside[torch.arange(ROWS)[:, None], kept.where(kept >= 0, VOCABULARY)] = True
    inside = inside[:, :-1] | ~(kept >= 0).any(1, keepdim=True)
    return logits, targets, logits.masked_fill(~inside, -math.inf)


def logp_of(leaf: Tensor, targets: Tensor, kept: Tensor | None) -> Tensor:
    return renormalised(plain.logp_entropy(leaf, targets, TEMPERATURE)[0], leaf, targets, kept, TEMPERATURE)


def test_value_and_gradient_are_those_of_masked_logits(kept: Tensor) -> None:
    logits, targets, masked = problem(kept)
    weight = torch.randn(ROWS, generator=torch.Generator().manual_seed(2), dtype=logits.dtype)
    ours, theirs = logits.clone().requires_grad_(), masked.clone().requires_grad_()
    logp = logp_of(ours, targets, kept)
    expected = (theirs / TEMPERATURE).log_softmax(1).gather(1, targets[:, None])[:, 0]
    (logp * weight).sum().backward()
    (expected * weight).sum().backward()
    torch.testing.assert_close(logp, expected, rtol=0, atol=1e-13)
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=0, atol=1e-13)
    assert ours.grad is not None and not ours.grad[masked.isinf()].any() and ours.grad[~masked.isinf()].any()


def test_without_sets_nothing_changes_and_a_set_of_one_token_is_certain(kept: Tensor) -> None:
    logits, targets, _ = problem(kept, torch.float32)
    whole = plain.logp_entropy(logits, targets, TEMPERATURE)[0]
    assert torch.equal(logp_of(logits, targets, None), whole)
    found = logp_of(logits, targets, kept)
    free, alone = (kept < 0).all(1), (kept >= 0).sum(1) == 1
    assert torch.equal(found[free], whole[free]) and not found[alone].any() and alone.any()


def test_the_plain_kernel_takes_rows_with_masked_logits(kept: Tensor) -> None:
    """It has the gradient and the entropy of the distribution that is left, and nothing that is not a number."""
    logits, targets, masked = problem(kept)
    leaf = masked.clone().requires_grad_()
    logp, entropy = plain.logp_entropy(leaf, targets, TEMPERATURE)
    rest = [(logits[row][~masked[row].isinf()] / TEMPERATURE).softmax(0) for row in range(ROWS)]
    torch.testing.assert_close(entropy, torch.stack([-(p * p.log()).sum() for p in rest]), rtol=0, atol=1e-12)
    torch.testing.assert_close(logp, logp_of(logits, targets, kept), rtol=0, atol=1e-12)
    (logp + 0.3 * entropy).sum().backward()
    assert leaf.grad is not None and leaf.grad.isfinite().all()
    assert float(leaf.grad[masked.isinf()].abs().max()) < 1e-100  # exp(-300), the floor of a probability
