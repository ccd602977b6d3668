"""Log-prob, entropy and their gradient against float64, over shapes, scales, types, masks and temperatures: other ones
in every run, where a test says so."""

from typing import Any

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from kernel_truth import log_softmax, relative, statistics
from torch import Tensor

from isentrope.kernels import plain, stats
from isentrope.kernels.checks import INTERPRETED
from isentrope.kernels.fused import logp_entropy, moments
from isentrope.kernels.row_list import compact

ONE = torch.ones(1)
WITHOUT_SHRINKING = (Phase.explicit, Phase.generate)  # the interpreter is slow, and the examples are small


class Strided(torch.autograd.Function):
    """A copy whose rows lie `stride` apart."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, stride: int) -> Tensor:
        out = torch.empty_strided(values.shape, (stride, 1))
        return out.copy_(values)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None]:
        return upstream[0], None


def check(
    logits: Tensor, targets: Tensor, temperature: "float | Tensor", mask: Tensor, softcap: float, *, inplace: bool
) -> None:
    """Compare values and gradients of the active rows; the others are exactly 0."""
    torch.manual_seed(len(targets))
    by_logp, by_entropy = torch.randn(2, len(targets))
    leaf = logits.detach().requires_grad_()
    logp, entropy = logp_entropy(
        Strided.apply(leaf, logits.stride(0)),
        targets, temperature, mask=mask, softcap=softcap, inplace=inplace,
    )  # fmt: skip
    ((by_logp * logp + by_entropy * entropy)[mask]).sum().backward()
    exact = logits.detach().double().requires_grad_()
    logp64, entropy64 = statistics(exact, targets, temperature, softcap)
    ((by_logp * logp64 + by_entropy * entropy64)[mask]).sum().backward()
    assert leaf.grad is not None and exact.grad is not None
    coldest = float(temperature.min()) if isinstance(temperature, Tensor) else temperature
    capped = 2.5e-7 * softcap / coldest  # a capped logit has the last bits of the cap, and no more is asked for
    assert ((logp - logp64).abs() <= 2e-7 * (1 + logp64.abs()) + capped)[mask].all()
    assert ((entropy - entropy64).abs() <= 3e-7 * (1 + entropy64) + 2 * capped)[mask].all()
    assert not logp[~mask].any() and not entropy[~mask].any() and not leaf.grad[~mask].any()
    # where rows are all but certain, 1 - p is the last bits of 1, however small the largest gradient is
    upstream = float(torch.maximum(by_logp.abs(), by_entropy.abs())[mask].max())
    last_bits = (2.0**-22 + capped) * upstream / coldest
    worst = float((leaf.grad - exact.grad).abs().max())
    assert worst <= (3e-6 + 2 * capped) * float(exact.grad.abs().max()) + last_bits


def check_moments(logits: Tensor, targets: Tensor, temperature: "float | Tensor", mask: Tensor, softcap: float) -> None:
    """Compare moments of the active rows; those that `logp_entropy` gives too are the same to the bit."""
    found = moments(logits, targets, temperature, mask=mask, softcap=softcap)
    logp, entropy = logp_entropy(logits, targets, temperature, mask=mask, softcap=softcap)
    assert torch.equal(found.logp, logp) and torch.equal(found.entropy, entropy)
    y = log_softmax(logits, temperature, softcap)
    coldest = float(temperature.min()) if isinstance(temperature, Tensor) else temperature
    capped = 2.5e-7 * softcap / coldest
    square = (2 * y).exp().sum(1)
    assert ((found.sum_p2 - square).abs() <= (6e-7 + 4 * capped) * square)[mask].all()
    exact = ((2 * y).exp() * y).sum(1)
    assert ((found.sum_p2_logp - exact).abs() <= (6e-7 + 4 * capped) * (square + exact.abs()))[mask].all()
    assert not torch.stack(found)[:, ~mask].any()


@st.composite
def shapes(draw: st.DrawFn) -> dict[str, object]:
    return {
        "count": draw(st.integers(1, 5)),
        "vocabulary": draw(st.sampled_from([1, 2, 7, 255, 257, 1000, 8200]) | st.integers(1, 1500)),
        "scale": draw(st.floats(0.01, 80)),
        "temperature": draw(st.floats(0.3, 2.0) | st.just(None)),
        "softcap": draw(st.sampled_from([0.0, 0.0, 30.0])),
        "forbidden": draw(st.sampled_from([0.0, 0.3])),
        "padding": draw(st.integers(0, 3)),
        "inplace": draw(st.booleans()),
        "seed": draw(st.integers(0, 2**31)),
    }


@settings(max_examples=8, phases=WITHOUT_SHRINKING, derandomize=False)
@given(shapes())
def test_statistics_and_gradient_are_those_of_float64(shape: dict[str, object]) -> None:
    run(**shape)  # type: ignore[arg-type]


def run(
    *,
    count: int,
    vocabulary: int,
    scale: float,
    temperature: float | None,
    softcap: float,
    forbidden: float,
    padding: int,
    inplace: bool,
    seed: int,
) -> None:
    torch.manual_seed(seed)
    wide = scale * (2 * torch.rand(count, vocabulary + padding) - 1)
    wide[torch.rand(wide.shape) < forbidden] = -torch.inf
    logits = wide[:, :vocabulary]
    targets = torch.randint(vocabulary, (count,))
    logits[torch.arange(count), targets] = scale * (2 * torch.rand(count) - 1)  # a sampled token is not forbidden
    divisor: float | Tensor = 0.3 + 1.7 * torch.rand(count) if temperature is None else temperature
    mask = torch.rand(count) > 0.2
    mask[0] = True
    check_moments(logits, targets, divisor, mask, softcap)
    check(logits, targets, divisor, mask, softcap, inplace=inplace)


@pytest.mark.slow
@settings(max_examples=4, phases=WITHOUT_SHRINKING, derandomize=False)
@given(shapes(), st.sampled_from([32000, 50257, 151936]))
def test_statistics_and_gradient_of_real_vocabularies(shape: dict[str, object], vocabulary: int) -> None:
    run(**{**shape, "vocabulary": vocabulary, "count": 2})  # type: ignore[arg-type]


@pytest.mark.parametrize("vocabulary", [32000, 50257, 151936])
def test_two_rows_of_a_real_vocabulary(vocabulary: int) -> None:
    torch.manual_seed(vocabulary)
    logits = 80 * (2 * torch.rand(2, vocabulary) - 1)
    check(logits, torch.tensor([3, vocabulary - 1]), 0.6, torch.ones(2, dtype=torch.bool), 0.0, inplace=True)


def test_moments_of_a_row_that_two_programs_read() -> None:
    torch.manual_seed(8)
    logits = torch.cat([80 * (2 * torch.rand(1, 70000) - 1), 2 * torch.randn(1, 70000)])
    check_moments(logits, torch.tensor([3, 69999]), 0.6, torch.ones(2, dtype=torch.bool), 0.0)


@pytest.mark.parametrize(("dtype", "step"), [(torch.bfloat16, 2.0**-8), (torch.float16, 2.0**-11)])
def test_half_precision_is_as_exact_as_the_reference_in_it(dtype: torch.dtype, step: float) -> None:
    torch.manual_seed(4)
    logits, targets = (5 * torch.randn(6, 700)).to(dtype), torch.randint(700, (6,))
    exact = logits.double().requires_grad_()
    grads: list[Tensor] = []
    expected = statistics(exact, targets, 0.9)
    (expected[0] - 0.3 * expected[1]).sum().backward()
    for function in (logp_entropy, plain.logp_entropy):
        leaf = logits.clone().requires_grad_()
        logp, entropy = function(leaf * 1, targets, 0.9)
        assert relative(logp, expected[0]) <= 2e-7 and relative(entropy, expected[1]) <= 3e-7
        (logp - 0.3 * entropy).sum().backward()
        assert leaf.grad is not None and leaf.grad.dtype == dtype
        grads.append(leaf.grad)
    assert exact.grad is not None
    ours, twin = (relative(grad, exact.grad) for grad in grads)
    # rounding is at most half a step of the type; the interpreter cuts bits off instead, a whole step
    assert ours <= twin + (step if INTERPRETED else 1e-6)


@pytest.mark.parametrize("cuts", [[7], [1, 300, 301], [256, 512]])
def test_shards_of_the_vocabulary_merge_to_the_whole(cuts: list[int]) -> None:
    torch.manual_seed(5)
    logits, targets = 9 * torch.randn(4, 700), torch.randint(700, (4,))
    rows = compact(torch.ones(4, dtype=torch.bool))
    triples = []
    for first, last in zip([0, *cuts], [*cuts, 700], strict=True):
        part = stats.triple_buffer(logits[:, first:last], 1)
        stats.segment_stats(logits[:, first:last], targets, ONE, 0.0, rows, part, vocab_start=first)
        triples.append(part)
    logp, entropy, _, _ = stats.merge(torch.cat(triples, dim=1), rows)
    expected = statistics(logits, targets)
    assert relative(logp, expected[0]) <= 2e-7 and relative(entropy, expected[1]) <= 3e-7


def test_a_row_has_the_same_bits_in_any_batch() -> None:
    torch.manual_seed(6)
    logits, targets = torch.randn(5, 900), torch.randint(900, (5,))
    whole = torch.stack(logp_entropy(logits, targets))
    alone = torch.cat([torch.stack(logp_entropy(logits[i : i + 1], targets[i : i + 1])) for i in range(5)], dim=1)
    assert torch.equal(whole, alone)


def test_a_row_without_a_finite_logit_gives_no_nan_and_a_nan_is_not_hidden() -> None:
    logits = torch.randn(3, 300)
    logits[0], logits[1, 7] = -torch.inf, torch.nan
    leaf = logits.requires_grad_()
    logp, entropy = logp_entropy(leaf * 1, torch.tensor([1, 2, 3]))
    assert logp[0] == -torch.inf and entropy[0] == 0
    assert logp[1].isnan() and entropy[1].isnan()
    assert logp[2].isfinite()
    square, with_log = torch.stack(moments(logits.detach(), torch.tensor([1, 2, 3]))[2:])
    assert square[0] == with_log[0] == 0 and square[1].isnan() and with_log[1].isnan() and square[2].isfinite()


def test_strided_targets_and_masks_are_read_where_they_are() -> None:
    torch.manual_seed(7)
    logits, targets = torch.randn(4, 60), torch.randint(60, (4, 2))[:, 1]
    mask = torch.tensor([[True, False], [False, True], [True, True], [False, False]])[:, 0]
    logp, _ = logp_entropy(logits, targets, mask=mask)
    expected, _ = statistics(logits, targets)
    assert relative(logp, torch.where(mask, expected, 0.0)) <= 2e-7
