"""The policy loss from hidden states against the one from logits: same verdicts, loss and gradients, in any chunks."""

import pytest
import torch
from kernel_truth import RULES, Sample, relative

from isentrope.errors import ArgumentError
from isentrope.kernels.fused import fused_policy_loss
from isentrope.kernels.linear import fused_linear_policy_loss


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize(("dtype", "chunk"), [(torch.float32, 16), (torch.bfloat16, 7)])
def test_linear_is_fused_of_the_product(name: str, dtype: torch.dtype, chunk: int) -> None:
    sample, rules = Sample.draw(vocabulary=40, seed=3), RULES[name]
    hidden, weight = torch.randn(24, 8).to(dtype), torch.randn(40, 8).to(dtype)
    arguments = (sample.targets, sample.tempered, rules)
    wide = [hidden.double().requires_grad_(), weight.double().requires_grad_()]
    expected = fused_policy_loss((wide[0] @ wide[1].T).float(), *arguments)
    (3 * expected.loss).backward()
    own = (hidden.clone().requires_grad_(), weight.clone().requires_grad_())
    found = fused_linear_policy_loss(*own, *arguments, chunk=chunk)
    (3 * found.loss).backward()
    torch.testing.assert_close(found.loss, expected.loss, rtol=2e-6, atol=1e-6)
    assert torch.equal(found.selected, expected.selected)
    for mine, exact in zip(own, wide, strict=True):
        assert mine.grad is not None and exact.grad is not None and mine.grad.dtype == dtype
        # the interpreter cuts the gradient's bits off in bfloat16: up to 2^-8 of each, with one sign
        assert relative(mine.grad, exact.grad) <= (5e-6 if dtype == torch.float32 else 2e-2)


def test_without_gradient_there_is_one_matmul_and_the_same_loss() -> None:
    sample = Sample.draw(vocabulary=40, seed=4)
    hidden, weight = torch.randn(24, 8), torch.randn(40, 8, requires_grad=True)
    arguments = (sample.targets, sample.tokens, RULES["kl_cov"])
    with torch.no_grad():
        found = fused_linear_policy_loss(hidden, weight, *arguments)
    expected = fused_policy_loss(hidden @ weight.detach().T, *arguments)
    torch.testing.assert_close(found.loss, expected.loss, rtol=1e-6, atol=1e-6)
    assert not found.loss.requires_grad


def test_a_second_backward_pass_is_refused() -> None:
    sample = Sample.draw(vocabulary=40)
    hidden, weight = torch.randn(24, 8, requires_grad=True), torch.randn(40, 8)
    loss = fused_linear_policy_loss(hidden, weight, sample.targets, sample.bare, RULES["plain"])
    loss.loss.backward(retain_graph=True)
    with pytest.raises(ArgumentError, match="second backward"):
        loss.loss.backward()
