"""Statistics come from kernels on a GPU, where a fake one is enough to see it, and are those of the plain twins."""

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from isentrope.kernels import plain
from isentrope.learner.training import token_statistics
from isentrope.learner.training.token_statistics import by_kernel, logp_at, logp_entropy, moments_at


@pytest.mark.parametrize(("device", "count", "expected"), [("cuda", 3, True), ("cuda", 0, False), ("cpu", 3, False)])
def test_kernels_are_chosen_on_a_gpu_for_any_targets(device: str, count: int, expected: bool) -> None:
    with FakeTensorMode():
        logits = torch.empty(count, 50, device=device)
        assert by_kernel(logits, torch.empty(count, dtype=torch.int64, device=device)) is expected


@pytest.mark.parametrize("kernels", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_all_statistics_are_those_of_the_plain_twins(
    kernels: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(token_statistics, "by_kernel", lambda logits, targets: kernels)
    torch.manual_seed(0)
    logits: Tensor = (4 * torch.randn(5, 300)).to(dtype)
    targets = torch.randint(300, (5,))
    expected = plain.moments(logits, targets, 0.7)
    for ours, theirs in zip(moments_at(0.7)(logits, targets), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=2e-6, atol=2e-6)
    logp, entropy = logp_entropy(logits, targets, 0.7)
    torch.testing.assert_close(torch.stack([logp, entropy]), torch.stack(expected[:2]), rtol=2e-6, atol=2e-6)
    assert torch.equal(logp_at(0.7)(logits, targets), logp)
