"""The policy loss from hidden states and the weight of the output layer: the [M, V] logits never exist.

A chunk of tokens at a time: logits by one matmul, in float32; the row kernel turns them into their own gradient, a
16-bit one in the upper half of the same bytes; two matmuls take it back to the hidden states and the weight. That is
three matmuls for a training step; returning log-probs first and computing their gradient later needs four.

Rules that select over the whole call do not cost a fourth. `top_cov` and `band_cov` change few tokens: those rows are
done again with the difference of the coefficients. `top_entropy` drops most tokens: a pass of one matmul decides, and
the three run on the kept rows alone.

Shapes: M tokens, D hidden, V vocabulary, C tokens of a chunk.
"""

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch

from isentrope.errors import ArgumentError
from isentrope.kernels import ops
from isentrope.kernels.call import (
    PolicyLoss,
    completed,
    decided,
    inverse_temperature,
    spend,
    with_selection,
)
from isentrope.kernels.checks import LOGIT_TYPES, check_device, check_softcap, check_targets, check_tokens, check_types
from isentrope.kernels.policy import Coefficients, LossRules, TokenInputs, coefficients
from isentrope.kernels.row_list import compact

CHUNK = 8192
"""Tokens per chunk: accumulating the weight's gradient in float32 costs 245 / C of the three matmuls."""


def fused_linear_policy_loss(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    targets: torch.Tensor,
    tokens: TokenInputs,
    rules: LossRules,
    *,
    softcap: float = 0.0,
    chunk: int = CHUNK,
) -> PolicyLoss:
    """Return `fused.fused_policy_loss` of the logits `hidden @ weight.T`, differentiable in both.

    Args:
        hidden: [M, D]; weight: [V, D]; both of one type. The weight's gradient is summed in float32.
        targets, tokens, rules, softcap: as there; the inputs are never written to.
        chunk: C; beyond the gradients, 4 C V bytes are in use.

    Raises:
        ArgumentError: shapes, types, devices; a second backward pass; `band_cov` without random bits.
    """
    _check(hidden, weight, targets, chunk)
    check_softcap(softcap)
    tokens = completed(tokens, rules, hidden.shape[0], hidden.device)
    if not torch.is_grad_enabled():  # inside of an autograd function it never is
        hidden, weight = hidden.detach(), weight.detach()
    head = (hidden, weight, targets.contiguous())
    return PolicyLoss(*_LinearPolicyLoss.apply(*head, tokens, rules, float(softcap), chunk))  # type: ignore[no-untyped-call]


def _check(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, chunk: int) -> None:
    if hidden.dim() != 2 or weight.dim() != 2 or hidden.shape[1] != weight.shape[1]:
        raise ArgumentError(f"hidden {tuple(hidden.shape)} and weight {tuple(weight.shape)}: [M, D] and [V, D] needed")
    if hidden.dtype != weight.dtype or hidden.dtype not in LOGIT_TYPES:
        raise ArgumentError(f"hidden {hidden.dtype} and weight {weight.dtype}: one of {LOGIT_TYPES} for both")
    if hidden.device != weight.device:
        raise ArgumentError(f"weight: on {weight.device}, {hidden.device} is needed")
    if chunk < 1:
        raise ArgumentError(f"chunk: {chunk}, 1 or more is needed")
    check_device(hidden.device)
    check_tokens(hidden.shape[0], hidden.device, {"targets": targets})
    check_types({"targets": targets}, allowed=(torch.int64,))
    check_targets(targets, weight.shape[0])


def _matmul32(left: torch.Tensor, right: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
    """Write `left @ right` to `out` as float32; the CPU's matmul cannot widen, so there the inputs are widened."""
    if left.dtype == torch.float32:
        return torch.mm(left, right, out=out)
    if left.device.type == "cuda":
        return torch.mm(left, right, out_dtype=torch.float32, out=out)
    return torch.mm(left.float(), right.float(), out=out)


class _Chunks:
    """Buffers for the logits of one chunk and their gradient, and the sums over chunks."""

    def __init__(
        self, hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, softcap: float, chunk: int
    ) -> None:
        rows, vocabulary = min(chunk, hidden.shape[0]), weight.shape[0]
        self.hidden, self.weight, self.targets, self.softcap = hidden, weight, targets, softcap
        self._logits = torch.empty(rows, vocabulary, dtype=torch.float32, device=hidden.device)
        narrow = hidden.dtype != torch.float32
        # The 16-bit gradient of a row lies in the upper half of the row's own bytes.
        self._gradient = self._logits.view(hidden.dtype)[:, vocabulary:] if narrow else self._logits
        self.by_hidden = torch.zeros_like(hidden)
        self.by_weight = torch.zeros(weight.shape, dtype=torch.float32, device=weight.device)

    def spans(self, count: int) -> Iterator[slice]:
        """Yield the slices of `count` rows, a chunk each."""
        for start in range(0, count, len(self._logits)):
            yield slice(start, min(start + len(self._logits), count))

    def logits(self, hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the logits [C, V] of these rows, float32, and where their gradient goes."""
        count = hidden.shape[0]
        return _matmul32(hidden, self.weight.T, self._logits[:count]), self._gradient[:count]

    def take_back(self, hidden: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
        """Add the weight's gradient; return that of `hidden`, [C, D]."""
        if gradient.device.type == "cuda" and gradient.dtype != torch.float32:
            torch.addmm(self.by_weight, gradient.T, hidden, out_dtype=torch.float32, out=self.by_weight)
        else:
            self.by_weight.addmm_(gradient.T.float(), hidden.float())
        return gradient @ self.weight


class _LinearPolicyLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        targets: torch.Tensor,
        tokens: TokenInputs,
        rules: LossRules,
        softcap: float,
        chunk: int,
    ) -> tuple[torch.Tensor, ...]:
        ctx.spent = False
        chunks = _Chunks(hidden.detach(), weight.detach(), targets, softcap, chunk)
        if not (ctx.needs_input_grad[0] or ctx.needs_input_grad[1]):
            results = _forward_only(chunks, tokens, rules)
        elif not decided(tokens, rules) and rules.select == "top_entropy":
            results = _kept_rows(chunks, tokens, rules)
        else:
            results = _all_rows(chunks, tokens, rules)
        ctx.by_hidden, ctx.by_weight = chunks.by_hidden, chunks.by_weight.to(weight.dtype)
        loss, logp, entropy, selected = results
        outputs = (loss.sum(), loss, logp, entropy, selected)
        ctx.mark_non_differentiable(*outputs[1:])
        return outputs

    @staticmethod
    def backward(ctx: Any, *upstream: torch.Tensor) -> tuple[Any, ...]:
        spend(ctx)
        factor = upstream[0].reshape(1)
        ops.scale_gradient(ctx.by_hidden, factor)
        ops.scale_gradient(ctx.by_weight, factor)
        return ctx.by_hidden, ctx.by_weight, None, None, None, None, None


_Results = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]
"""loss, logp, entropy [M] float32, selected [M] bool."""


def _all_rows(chunks: _Chunks, tokens: TokenInputs, rules: LossRules) -> _Results:
    """Do one pass with the coefficients that depend on a row alone, then again the rows that a selection changes."""
    count = len(chunks.targets)
    result = torch.empty(3, count, dtype=torch.float32, device=chunks.targets.device)
    for span in chunks.spans(count):
        result[:, span] = _fused(chunks, tokens, rules, span)
    loss, logp, entropy = result
    chosen = with_selection(tokens, rules, logp, entropy)
    if tokens.selected is None and chosen.selected is not None:
        before, after = (coefficients(logp, entropy, each, rules) for each in (tokens, chosen))
        most = max(1, math.floor(rules.share * count))  # as many rows at most, known without asking the device
        _correct(chunks, chosen, before, after, most)
        loss = after.loss
    selected = torch.zeros_like(tokens.mask) if chosen.selected is None else chosen.selected
    return loss, logp, entropy, selected


def _fused(chunks: _Chunks, tokens: TokenInputs, rules: LossRules, rows: "slice | torch.Tensor") -> torch.Tensor:
    """Return loss, logp and entropy of some rows, [3, C], and take their gradient back."""
    hidden, part = chunks.hidden[rows], tokens.take(rows)
    logits, gradient = chunks.logits(hidden)
    inverse = inverse_temperature(part.temperature, len(hidden), hidden.device)
    result = ops.fuse_rows(logits, chunks.targets[rows], part, rules, inverse, chunks.softcap, gradient)
    chunks.by_hidden[rows] = chunks.take_back(hidden, gradient)
    return result


def _correct(chunks: _Chunks, chosen: TokenInputs, before: Coefficients, after: Coefficients, most: int) -> None:
    """Add what the selection changes, on the selected rows alone, which are `most` or fewer."""
    assert chosen.selected is not None
    order = compact(chosen.selected).order.long()
    for span in chunks.spans(most):
        rows = order[span]
        hidden, targets, part = chunks.hidden[rows], chunks.targets[rows], chosen.take(rows)
        logits, gradient = chunks.logits(hidden)
        inverse = inverse_temperature(part.temperature, len(rows), hidden.device)
        stats = ops.row_stats(logits, targets, inverse, chunks.softcap, torch.ones_like(part.mask))
        g, h = (after.by_logp - before.by_logp)[rows], (after.by_entropy - before.by_entropy)[rows]
        one = torch.ones(1, dtype=torch.float32, device=logits.device)
        ops.write_gradient(logits, targets, stats, g, h, one, inverse, chunks.softcap, gradient)
        chunks.by_hidden.index_add_(0, rows, chunks.take_back(hidden, gradient))


def _kept_rows(chunks: _Chunks, tokens: TokenInputs, rules: LossRules) -> _Results:
    """Decide with a pass of one matmul, then train on the rows that are kept. Reads their number from the device."""
    loss, logp, entropy, selected = _forward_only(chunks, tokens, rules)
    dropped = rules.action == "drop" and not rules.entropy_coef
    rows = (tokens.mask & ~selected if dropped else tokens.mask).nonzero().squeeze(1)
    verdicts = replace(tokens, selected=selected)
    for span in chunks.spans(len(rows)):
        _fused(chunks, verdicts, rules, rows[span])
    return loss, logp, entropy, selected


def _forward_only(chunks: _Chunks, tokens: TokenInputs, rules: LossRules) -> _Results:
    count, device = len(chunks.targets), chunks.targets.device
    stats = torch.empty(4, count, dtype=torch.float32, device=device)
    for span in chunks.spans(count):
        logits, _ = chunks.logits(chunks.hidden[span])
        part = tokens.take(span)
        inverse = inverse_temperature(part.temperature, len(logits), device)
        stats[:, span] = ops.row_stats(logits, chunks.targets[span], inverse, chunks.softcap, part.mask)
    chosen = with_selection(tokens, rules, stats[0], stats[1])
    loss = coefficients(stats[0], stats[1], chosen, rules).loss
    selected = torch.zeros_like(tokens.mask) if chosen.selected is None else chosen.selected
    return loss, stats[0], stats[1], selected
