"""The entropy budget: its parts add up to what a small step on the loss does to the entropy of free logits."""

import dataclasses

import pytest
import torch
from batches import T, halves, objective_of, random_batch, without_demonstrations
from torch import Tensor

from isentrope.kernels import plain
from isentrope.kernels.plain import Moments
from isentrope.learner.objective.batch import Batch
from isentrope.learner.objective.entropy_budget import entropy_budget

V = 7
METHODS = ["grpo", "dapo", "nsr", "tis", "luspo"]


def free_policy(seed: int = 0) -> tuple[Batch, Tensor, Tensor]:
    """A batch, and logits [N T, V] and tokens [N T] of the policy before it."""
    batch = without_demonstrations(random_batch(seed))
    torch.manual_seed(seed)
    logits = 2 * torch.randn(len(batch.length) * T, V, dtype=torch.float64)
    target = torch.randint(V, (len(logits),))
    moments = Moments(*(values.view(-1, T) for values in plain.moments(logits, target)))
    return dataclasses.replace(batch, statistics=moments, logp_rollout=moments.logp + 0.01), logits, target


@pytest.mark.parametrize("method", METHODS)
def test_its_parts_add_up_to_the_change_by_a_small_step(method: str) -> None:
    batch, logits, target = free_policy()
    objective, rows = objective_of(method), torch.arange(len(batch.length))
    updates = halves(batch)
    prepared = objective.prepare(batch, updates)
    leaf = logits.clone().requires_grad_()
    logp, entropy = (values.view(-1, T) for values in plain.logp_entropy(leaf, target))
    loss = sum(
        objective.token_loss(prepared, n, part, logp[part], entropy[part]).loss for n, part in enumerate(updates)
    )
    assert isinstance(loss, Tensor) and len(rows)
    (gradient,) = torch.autograd.grad(loss, leaf)

    def mean_entropy(step: float) -> Tensor:
        moved = plain.moments(logits - step * gradient, target).entropy.view(-1, T)
        return moved[prepared.mask].mean()

    measured = float(mean_entropy(1e-4) - mean_entropy(-1e-4)) / 2e-4
    found = entropy_budget(batch, prepared)
    assert sum(found["entropy_budget"].values()) == pytest.approx(measured, rel=1e-5)
    assert sum(found["entropy_budget_by_source"].values()) == pytest.approx(measured, rel=1e-5)


def test_rewarding_the_likely_sharpens_and_punishing_it_flattens() -> None:
    batch, _, _ = free_policy()
    found = entropy_budget(batch, objective_of("grpo").prepare(batch, halves(batch)))["entropy_budget"]
    assert found["positive_likely"] < 0 < found["negative_likely"]


def test_a_method_that_learns_from_failures_has_no_rewarded_tokens() -> None:
    batch, _, _ = free_policy()
    found = entropy_budget(batch, objective_of("nsr").prepare(batch, halves(batch)))["entropy_budget"]
    assert found["positive_likely"] == found["positive_rare"] == 0 != found["negative_rare"]


def test_there_is_none_of_a_batch_without_tokens() -> None:
    batch, _, _ = free_policy()
    nothing = dataclasses.replace(batch, mask=torch.zeros_like(batch.mask))
    assert entropy_budget(nothing, objective_of("grpo").prepare(nothing, halves(nothing))) == {}
