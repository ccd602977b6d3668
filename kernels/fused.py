"""The two differentiable functions of this folder, `fused_policy_loss` and `logp_entropy`, and `moments` without one.

`fused_policy_loss` does everything a policy loss needs from logits in one call: log-prob, entropy, verdicts, clipped
loss and gradient. `logp_entropy` is for any other objective: whatever is computed from log-prob and entropy, its
gradient comes back through them. Both write the gradient over the logits unless told not to, which is safe as long as
nobody else saved the logits; autograd's version counter is raised, so that whoever did is told.

Shapes: M tokens, V vocabulary. Statistics are float32 and in nats, whatever the type of the logits. The kernels are
registered operators (`ops.py`), so that torch.compile keeps one graph.
"""

from typing import Any

import torch

from isentrope.kernels import ops
from isentrope.kernels.call import (
    PolicyLoss,
    completed,
    decided,
    inverse_temperature,
    spend,
    with_selection,
)
from isentrope.kernels.checks import (
    check_logits,
    check_not_empty,
    check_overwritable,
    check_softcap,
    check_tokens,
    check_types,
)
from isentrope.kernels.plain import Moments
from isentrope.kernels.policy import LossRules, TokenInputs, coefficients


def logp_entropy(
    logits: torch.Tensor,
    targets: torch.Tensor,
    temperature: "float | torch.Tensor" = 1.0,
    *,
    mask: torch.Tensor | None = None,
    softcap: float = 0.0,
    inplace: bool = True,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the targets' log-prob and the full distribution's entropy: [M] float32 each, differentiable in the logits.

    Args:
        logits: [M, V] float32, bfloat16 or float16, any row stride; -inf is allowed.
        targets: [M] int64.
        temperature: divides the logits; a number, or [M] float32.
        softcap: c > 0 replaces logits z by c tanh(z / c) before the temperature.
        inplace: the gradient replaces the logits.
        mask: [M] bool; rows outside are not read, give 0 and get no gradient.

    Raises:
        ArgumentError: shapes, types, devices; a second backward pass.
    """
    inverse, active = _rows(logits, targets, temperature, mask)
    check_overwritable(logits, inplace)
    logp, entropy = _LogpEntropy.apply(logits, targets.contiguous(), inverse, active, float(softcap), inplace)  # type: ignore[no-untyped-call]
    return logp, entropy


@torch.no_grad()
def moments(
    logits: torch.Tensor,
    targets: torch.Tensor,
    temperature: "float | torch.Tensor" = 1.0,
    *,
    mask: torch.Tensor | None = None,
    softcap: float = 0.0,
) -> Moments:
    """Return `logp_entropy` without gradient, and the two sums that exact entropy changes and baselines need: [M]
    float32 each, in one read of the logits. Arguments and errors as there."""
    inverse, active = _rows(logits, targets, temperature, mask)
    return Moments(*ops.row_moments(logits, targets.contiguous(), inverse, float(softcap), active).unbind())


def fused_policy_loss(
    logits: torch.Tensor,
    targets: torch.Tensor,
    tokens: TokenInputs,
    rules: LossRules,
    *,
    softcap: float = 0.0,
    inplace: bool = True,
) -> PolicyLoss:
    """Compute the policy loss of M tokens and its gradient by the logits, by the formulas of `policy.py`.

    Args:
        logits, targets: as in `logp_entropy`.
        tokens: what there is per token.
        rules: what is clipped, selected and added.
        softcap, inplace: as in `logp_entropy`.

    A selection rule looks at all tokens of this call. To select over several micro-batches or ranks, decide first
    (`select.py`) and pass `TokenInputs(selected=…)`.

    Raises:
        ArgumentError: shapes, types, devices; a second backward pass; `band_cov` without random bits.
    """
    check_logits(logits, targets)
    check_softcap(softcap)
    tokens = completed(tokens, rules, logits.shape[0], logits.device)
    check_overwritable(logits, inplace)
    leaf = logits if torch.is_grad_enabled() else logits.detach()  # inside of an autograd function it never is
    return PolicyLoss(*_PolicyLoss.apply(leaf, targets.contiguous(), tokens, rules, float(softcap), inplace))  # type: ignore[no-untyped-call]


def _rows(
    logits: torch.Tensor, targets: torch.Tensor, temperature: "float | torch.Tensor", mask: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return 1 / T and the rows to read, of inputs that are as they must be."""
    check_logits(logits, targets)
    count, device = logits.shape[0], logits.device
    check_not_empty(count)
    check_tokens(count, device, {"mask": mask})
    check_types({"mask": mask}, allowed=(torch.bool,))
    active = torch.ones(count, dtype=torch.bool, device=device) if mask is None else mask.contiguous()
    return inverse_temperature(temperature, count, device), active


class _LogpEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        logits: torch.Tensor,
        targets: torch.Tensor,
        inverse: torch.Tensor,
        active: torch.Tensor,
        softcap: float,
        inplace: bool,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        stats = ops.row_stats(logits, targets, inverse, softcap, active)
        ctx.save_for_backward(logits, targets, stats, inverse, active)
        ctx.softcap, ctx.inplace, ctx.spent = softcap, inplace, False
        return stats[0].clone(), stats[1].clone()

    @staticmethod
    def backward(ctx: Any, *upstream: torch.Tensor) -> tuple[Any, ...]:
        spend(ctx)
        by_logp, by_entropy = upstream
        logits, targets, stats, inverse, active = ctx.saved_tensors
        g, h = torch.where(active, by_logp, 0.0), torch.where(active, by_entropy, 0.0)
        one = torch.ones(1, dtype=torch.float32, device=logits.device)
        out = logits.detach() if ctx.inplace else torch.empty_like(logits)
        ops.write_gradient(logits.detach(), targets, stats, g, h, one, inverse, ctx.softcap, out)
        return out, None, None, None, None, None


class _PolicyLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        logits: torch.Tensor,
        targets: torch.Tensor,
        tokens: TokenInputs,
        rules: LossRules,
        softcap: float,
        inplace: bool,
    ) -> tuple[torch.Tensor, ...]:
        ctx.softcap, ctx.inplace, ctx.spent = softcap, inplace, False
        inverse = inverse_temperature(tokens.temperature, logits.shape[0], logits.device)
        ctx.row_fused = decided(tokens, rules) and ctx.needs_input_grad[0]
        if ctx.row_fused:
            out = logits.detach() if inplace else torch.empty_like(logits)
            loss, logp, entropy = ops.fuse_rows(logits.detach(), targets, tokens, rules, inverse, softcap, out)
            ctx.gradient = out
        else:
            stats = ops.row_stats(logits, targets, inverse, softcap, tokens.mask)
            logp, entropy = stats[0], stats[1]
            tokens = with_selection(tokens, rules, logp, entropy)
            loss, by_logp, by_entropy = coefficients(logp, entropy, tokens, rules)
            ctx.save_for_backward(logits, targets, stats, by_logp, by_entropy, inverse)
        selected = torch.zeros_like(tokens.mask) if tokens.selected is None else tokens.selected.clone()
        results = (loss.sum(), loss, logp, entropy, selected)
        ctx.mark_non_differentiable(*results[1:])
        return results

    @staticmethod
    def backward(ctx: Any, *upstream: torch.Tensor) -> tuple[Any, ...]:
        spend(ctx)
        factor = upstream[0].reshape(1)
        if ctx.row_fused:
            ops.scale_gradient(ctx.gradient, factor)
            return ctx.gradient, None, None, None, None, None
        logits, targets, stats, by_logp, by_entropy, inverse = ctx.saved_tensors
        out = logits.detach() if ctx.inplace else torch.empty_like(logits)
        ops.write_gradient(logits.detach(), targets, stats, by_logp, by_entropy, factor, inverse, ctx.softcap, out)
        return out, None, None, None, None, None
