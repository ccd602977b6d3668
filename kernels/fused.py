"""The two differentiable functions of this folder: `fused_policy_loss` and `logp_entropy`.

`fused_policy_loss` does everything a policy loss needs from logits in one call: log-prob, entropy, verdicts, clipped
loss and gradient. `logp_entropy` is for any other objective: whatever is computed from log-prob and entropy, its
gradient comes back through them. Both write the gradient over the logits unless told not to, which is safe as long as
nobody else saved the logits; autograd's version counter is raised, so that whoever did is told.

Shapes: M tokens, V vocabulary. Statistics are float32 and in nats, whatever the type of the logits. The kernels are
registered operators (`ops.py`), so that torch.compile keeps one graph.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from isentrope.errors import ArgumentError
from isentrope.kernels import ops, select
from isentrope.kernels.checks import check_logits, check_not_empty, check_tokens
from isentrope.kernels.policy import ACTIONS, Rules, Tokens, clipped_away, coefficients


class PolicyLoss(NamedTuple):
    """loss: scalar, differentiable. token_loss, logp, entropy: [M] float32, detached; zero where a token may not count.
    selected: [M] bool, the tokens that a selection rule chose."""

    loss: torch.Tensor
    token_loss: torch.Tensor
    logp: torch.Tensor
    entropy: torch.Tensor
    selected: torch.Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenInputs:
    """Optional inputs per token, each [M] on the device of the logits.

    mask: bool, may carry loss. weight: float32, factor of the policy part (corrections). lag: integer, batches since
    the token was sampled. selected: bool, verdicts made elsewhere, as over a whole batch; the rules then select
    nothing. random: int32 random bits, needed by `band_cov`.
    """

    mask: torch.Tensor | None = None
    weight: torch.Tensor | None = None
    lag: torch.Tensor | None = None
    selected: torch.Tensor | None = None
    random: torch.Tensor | None = None


def logp_entropy(
    logits: torch.Tensor,
    targets: torch.Tensor,
    temperature: "float | torch.Tensor" = 1.0,
    *,
    mask: torch.Tensor | None = None,
    softcap: float = 0.0,
    inplace: bool = True,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-prob of the targets and entropy of the full distribution, [M] float32 each, differentiable in the logits.

    Args:
        logits: [M, V] float32, bfloat16 or float16, any row stride; -inf is allowed.
        targets: [M] int64.
        temperature: divides the logits; a number, or [M] float32.
        mask: [M] bool; rows outside are not read, give 0 and get no gradient.
        softcap: c > 0 replaces z by c tanh(z / c) before the temperature.
        inplace: the gradient replaces the logits.

    Raises:
        ArgumentError: shapes, types, devices; a second backward pass.
    """
    check_logits(logits, targets)
    check_not_empty(logits.shape[0])
    check_tokens(logits.shape[0], logits.device, {"mask": mask})
    active = torch.ones(logits.shape[0], dtype=torch.bool, device=logits.device) if mask is None else mask
    inverse = _inverse(temperature, logits)
    logp, entropy = _LogpEntropy.apply(logits, targets, inverse, active, softcap, inplace)  # type: ignore[no-untyped-call]
    return logp, entropy


def fused_policy_loss(
    logits: torch.Tensor,
    targets: torch.Tensor,
    advantage: torch.Tensor,
    logp_old: torch.Tensor,
    rules: Rules,
    tokens: TokenInputs | None = None,
    *,
    normalizer: "float | torch.Tensor | None" = None,
    temperature: "float | torch.Tensor" = 1.0,
    softcap: float = 0.0,
    inplace: bool = True,
) -> PolicyLoss:
    """Policy loss of M tokens and its gradient by the logits, by the formulas of `policy.py`.

    Args:
        logits, targets, temperature, softcap, inplace: as in `logp_entropy`.
        advantage, logp_old: [M] float32.
        rules: what is clipped, selected and added.
        normalizer: factor of the sum over tokens, a number or [1] on the device; None: 1 / number of tokens in `mask`.

    A selection rule looks at all tokens of this call. To select over several micro-batches or ranks, decide first
    (`select.py`) and pass `selected`.

    Raises:
        ArgumentError: shapes, types, devices; a second backward pass; `band_cov` without random bits.
    """
    check_logits(logits, targets)
    count, device = logits.shape[0], logits.device
    check_not_empty(count)
    extra = tokens if tokens is not None else TokenInputs()
    check_tokens(count, device, {"advantage": advantage, "logp_old": logp_old, "mask": extra.mask, "lag": extra.lag})
    check_tokens(count, device, {"weight": extra.weight, "selected": extra.selected, "random": extra.random})
    if rules.select == "band_cov" and extra.selected is None and extra.random is None:
        raise ArgumentError("random: missing, band_cov draws its tokens by it", fix="pass TokenInputs(random=…)")
    everything = torch.ones(count, dtype=torch.bool, device=device)
    mask = everything if extra.mask is None else extra.mask
    keep = mask if extra.lag is None or rules.max_lag is None else mask & (extra.lag <= rules.max_lag)
    record = Tokens(
        advantage=advantage.float(),
        logp_old=logp_old.float(),
        weight=everything.float() if extra.weight is None else extra.weight.float(),
        keep=keep,
        selected=extra.selected,
        normalizer=_normalizer(normalizer, mask),
    )
    call = _Call(rules, record, extra.random, _inverse(temperature, logits), softcap, inplace)
    return PolicyLoss(*_PolicyLoss.apply(logits, targets, call))  # type: ignore[no-untyped-call]


def _inverse(temperature: "float | torch.Tensor", logits: torch.Tensor) -> torch.Tensor:
    """1 / T as [1] or [M] float32 on the device: a run-time value, so that no temperature causes a compilation."""
    if isinstance(temperature, torch.Tensor):
        check_tokens(logits.shape[0], logits.device, {"temperature": temperature})
        return temperature.float().reciprocal()
    if not temperature > 0:
        raise ArgumentError(f"temperature: {temperature}, above 0 is needed")
    return torch.full((1,), 1.0 / temperature, dtype=torch.float32, device=logits.device)


def _normalizer(normalizer: "float | torch.Tensor | None", mask: torch.Tensor) -> torch.Tensor:
    if isinstance(normalizer, torch.Tensor):
        return normalizer.float().reshape(1)
    if normalizer is not None:
        return torch.full((1,), normalizer, dtype=torch.float32, device=mask.device)
    return mask.sum(dtype=torch.float32).clamp(min=1).reciprocal().reshape(1)


@dataclass(frozen=True, slots=True)
class _Call:
    """What one call carries besides the logits and their targets."""

    rules: Rules
    tokens: Tokens
    random: torch.Tensor | None
    inverse_temperature: torch.Tensor
    softcap: float
    inplace: bool


def select_tokens(
    logp: torch.Tensor, entropy: torch.Tensor, tokens: Tokens, rules: Rules, random: torch.Tensor | None
) -> torch.Tensor:
    """Which of these tokens the selection rule chooses: [M] bool. `top_entropy` chooses those it does not keep."""
    if rules.select == "top_entropy":
        return tokens.keep & ~select.top_entropy_mask(entropy, rules.share, tokens.keep)
    covariance = select.covariance(logp, tokens.advantage, tokens.keep)
    k = select.share_of(tokens.keep, rules.share)
    if rules.select == "top_cov":
        return select.top_k_mask(covariance, k, candidates=tokens.keep)
    assert random is not None
    low, high = rules.band
    inside = tokens.keep & (covariance > low) & (covariance < high) & ~clipped_away(logp, tokens, rules)
    return select.smallest_random_mask(random, k, candidates=inside)


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
    def backward(ctx: Any, by_logp: torch.Tensor, by_entropy: torch.Tensor) -> tuple[Any, ...]:
        _spend(ctx)
        logits, targets, stats, inverse, active = ctx.saved_tensors
        g, h = torch.where(active, by_logp, 0.0), torch.where(active, by_entropy, 0.0)
        one = torch.ones(1, dtype=torch.float32, device=logits.device)
        out = logits.detach() if ctx.inplace else torch.empty_like(logits)
        ops.write_gradient(logits.detach(), targets, stats, g, h, one, inverse, ctx.softcap, out)
        return out, None, None, None, None, None


class _PolicyLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: torch.Tensor, targets: torch.Tensor, call: _Call) -> tuple[torch.Tensor, ...]:
        ctx.call, ctx.spent = call, False
        rules, tokens = call.rules, call.tokens
        ctx.row_fused = logits.requires_grad and (rules.row_local or tokens.selected is not None)
        if ctx.row_fused:
            out = logits.detach() if call.inplace else torch.empty_like(logits)
            loss, logp, entropy = ops.fuse_rows(
                logits.detach(), targets, tokens.advantage, tokens.logp_old, tokens.weight, tokens.keep,
                tokens.selected, tokens.normalizer, rules.scalars(), _action(rules, tokens),
                call.inverse_temperature, call.softcap, out,
            )  # fmt: skip
            ctx.gradient = out
        else:
            stats = ops.row_stats(logits, targets, call.inverse_temperature, call.softcap, tokens.keep)
            logp, entropy = stats[0], stats[1]
            if tokens.selected is None and not rules.row_local:
                tokens = tokens._replace(selected=select_tokens(logp, entropy, tokens, rules, call.random))
            loss, by_logp, by_entropy = coefficients(logp, entropy, tokens, rules)
            ctx.save_for_backward(logits, targets, stats, by_logp, by_entropy)
        selected = torch.zeros_like(tokens.keep) if tokens.selected is None else tokens.selected.clone()
        results = (loss.sum(), loss, logp, entropy, selected)
        ctx.mark_non_differentiable(*results[1:])
        return results

    @staticmethod
    def backward(ctx: Any, upstream: torch.Tensor, *_: torch.Tensor) -> tuple[Any, ...]:
        _spend(ctx)
        call: _Call = ctx.call
        if ctx.row_fused:
            ops.scale_gradient(ctx.gradient, upstream.reshape(1))
            return ctx.gradient, None, None
        logits, targets, stats, by_logp, by_entropy = ctx.saved_tensors
        out = logits.detach() if call.inplace else torch.empty_like(logits)
        ops.write_gradient(
            logits.detach(), targets, stats, by_logp, by_entropy, upstream.reshape(1), call.inverse_temperature,
            call.softcap, out,
        )  # fmt: skip
        return out, None, None


def _action(rules: Rules, tokens: Tokens) -> int:
    return 0 if tokens.selected is None else ACTIONS[rules.action]


def _spend(ctx: Any) -> None:
    if ctx.spent:
        raise ArgumentError(
            "a second backward pass through the fused loss: the gradient has replaced what it was computed from",
            fix="call it once, or compute the loss again",
        )
    ctx.spent = True
