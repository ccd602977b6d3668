"""On a GPU one fused call stands for the objective: same loss, same gradient, and not a monitor less."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from batches import objective_of
from torch import Tensor
from toy_batch import VOCABULARY, make_toy_arrays

from isentrope.learner.intake.packing import pack, to_batch
from isentrope.learner.objective.batch import LossParts
from isentrope.learner.objective.kernel_rules import fused_inputs, rules_of
from isentrope.learner.training.micro_batch import Micro, by_kernel, loss_of

TEMPERATURE = 0.7
ARRAYS = make_toy_arrays(groups=3, group_size=4, number=2)
ROWS = [5, 0, 7, 10]


@pytest.fixture
def logits() -> Tensor:
    torch.manual_seed(0)
    return torch.randn(len(pack(ARRAYS, ROWS).target), VOCABULARY)


def micro_of(method: str, logits: Tensor) -> Micro:
    """A micro-batch of the second update, whose policy has moved from the one before the batch."""
    objective = objective_of(method)
    rules = rules_of(objective)
    assert rules is not None
    batch, packed = to_batch(ARRAYS, seed=0), pack(ARRAYS, ROWS)
    now = torch.log_softmax(logits / TEMPERATURE, -1).gather(1, packed.target[:, None])[:, 0]
    old = batch.logp_rollout.clone()
    old[ROWS] = packed.to_padded(now + 0.3 * torch.randn(now.shape))
    object.__setattr__(batch, "logp_old", old)
    object.__setattr__(batch, "logp_rollout", old + 0.2 * torch.randn(old.shape) * batch.mask)
    object.__setattr__(batch, "entropy_old", torch.rand(batch.mask.shape) * batch.mask)
    rows = torch.tensor(ROWS)
    prepared = objective.prepare(batch, [torch.arange(len(batch.group))] * 2)
    surrogate: Callable[[Tensor, Tensor], LossParts] = partial(objective.token_loss, prepared, 1, rows)
    return Micro(packed, surrogate, fused_inputs(objective, rules, prepared, 1, rows))


@pytest.mark.parametrize("method", ["grpo", "dapo", "kl_cov", "clip_cov", "top_entropy", "tis"])
def test_one_call_is_the_objective(method: str, logits: Tensor) -> None:
    micro = micro_of(method, logits)
    assert micro.fused is not None
    found = []
    for way in (loss_of, lambda micro, *rest: by_kernel(micro, micro.fused, *rest)):
        leaf = logits.clone().requires_grad_()
        loss, part = way(micro, TEMPERATURE, leaf * 1.0, micro.packed.target)
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
    batch = to_batch(ARRAYS, seed=0)
    object.__setattr__(batch, "logp_old", batch.logp_rollout)
    none = torch.zeros(0, dtype=torch.int64)
    prepared = objective.prepare(batch, [torch.arange(len(batch.group))])
    packed = pack(ARRAYS, [])
    leaf = torch.randn(0, VOCABULARY, requires_grad=True)
    loss, _ = loss_of(Micro(packed, partial(objective.token_loss, prepared, 0, none)), 1.0, leaf, packed.target)
    loss.backward()
    assert float(loss.detach()) == 0.0
