"""Log-probability, entropy and moments against the textbook formulas, and their gradients against differences."""

import pytest
import torch

from isentrope.kernels import plain


@pytest.mark.parametrize("temperature", [0.6, 1.0, 1.7])
def test_values_are_those_of_the_tempered_softmax(temperature: float) -> None:
    torch.manual_seed(0)
    logits, targets = 3 * torch.randn(11, 29, dtype=torch.float64), torch.randint(29, (11,))
    logp, entropy = plain.logp_entropy(logits, targets, temperature)
    p = torch.softmax(logits / temperature, dim=1)
    torch.testing.assert_close(logp, p[torch.arange(11), targets].log(), rtol=1e-12, atol=0)
    torch.testing.assert_close(entropy, -(p * p.log()).sum(1), rtol=1e-12, atol=0)
    found = plain.moments(logits, targets, temperature)
    torch.testing.assert_close(found.sum_p2, p.square().sum(1), rtol=1e-12, atol=0)
    torch.testing.assert_close(found.sum_p2_logp, (p.square() * p.log()).sum(1), rtol=1e-12, atol=0)
    assert torch.equal(found.logp, logp) and torch.equal(found.entropy, entropy)


def test_gradient_agrees_with_finite_differences() -> None:
    torch.manual_seed(1)
    logits, targets = torch.randn(5, 7, dtype=torch.float64, requires_grad=True), torch.randint(7, (5,))
    assert torch.autograd.gradcheck(lambda z: plain.logp_entropy(z, targets, 0.7), logits)


def test_result_does_not_depend_on_the_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(2)
    logits, targets = torch.randn(10, 6, requires_grad=True), torch.randint(6, (10,))
    whole = plain.logp_entropy(logits, targets)
    (whole[0] + whole[1]).sum().backward()
    expected, logits.grad = logits.grad, None
    monkeypatch.setattr(plain, "CHUNK_ELEMENTS", 3 * 6)
    parts = plain.logp_entropy(logits, targets)
    (parts[0] + parts[1]).sum().backward()
    assert torch.equal(whole[0], parts[0]) and torch.equal(whole[1], parts[1])
    assert expected is not None and logits.grad is not None and torch.equal(expected, logits.grad)


def test_half_precision_logits_give_float32_statistics_and_a_gradient_in_their_own_dtype() -> None:
    torch.manual_seed(3)
    logits = torch.randn(4, 50).bfloat16().requires_grad_()
    targets = torch.randint(50, (4,))
    logp, entropy = plain.logp_entropy(logits, targets)
    (logp - entropy).sum().backward()
    exact, _ = plain.logp_entropy(logits.detach().double(), targets)
    assert logp.dtype == entropy.dtype == torch.float32
    assert logits.grad is not None and logits.grad.dtype == torch.bfloat16
    torch.testing.assert_close(logp.double(), exact, rtol=1e-6, atol=1e-6)


def test_forbidden_vocabulary_entries_make_no_nan() -> None:
    logits = torch.tensor([[0.0, -torch.inf, 1.0]], requires_grad=True)
    logp, entropy = plain.logp_entropy(logits, torch.tensor([2]))
    (logp + entropy).sum().backward()
    two = torch.tensor([[0.0, 1.0]])
    assert logits.grad is not None and logits.grad.isfinite().all() and logits.grad[0, 1] == 0
    torch.testing.assert_close(entropy, plain.logp_entropy(two, torch.tensor([1]))[1])
