"""Inputs and results of a call of a fused loss: inputs per token, checked and completed.

Shapes: M tokens.
"""

from dataclasses import replace
from typing import Any, NamedTuple

import torch

from isentrope.errors import ArgumentError
from isentrope.kernels import select
from isentrope.kernels.checks import FLOAT_TYPES, check_not_empty, check_tokens, check_types
from isentrope.kernels.policy import ACTIONS, LossRules, TokenInputs, clipped_away


class PolicyLoss(NamedTuple):
    """loss: scalar, differentiable. token_loss, logp, entropy: [M] float32, detached; zero where a token may not count.
    selected: [M] bool, the tokens that a selection rule chose."""

    loss: torch.Tensor
    token_loss: torch.Tensor
    logp: torch.Tensor
    entropy: torch.Tensor
    selected: torch.Tensor


def completed(tokens: TokenInputs, rules: LossRules, count: int, device: torch.device) -> TokenInputs:
    """Return checked inputs of `count` tokens as the kernels take them: contiguous float32, and no token in the mask
    that is too old.

    Raises:
        ArgumentError: shapes, types, devices; `band_cov` without random bits.
    """
    check_not_empty(count)
    numbers = {"advantage": tokens.advantage, "logp_old": tokens.logp_old, "weight": tokens.weight}
    verdicts = {"mask": tokens.mask, "selected": tokens.selected}
    check_tokens(count, device, {**numbers, **verdicts, "lag": tokens.lag, "random": tokens.random})
    check_types(numbers, allowed=FLOAT_TYPES)
    check_types(verdicts, allowed=(torch.bool,))
    check_types({"random": tokens.random}, allowed=(torch.int32,))
    check_types({"lag": tokens.lag}, allowed=(torch.int64, torch.int32))
    if tokens.normalizer.numel() != 1 or tokens.normalizer.device != device:
        given = f"{tuple(tokens.normalizer.shape)} on {tokens.normalizer.device}"
        raise ArgumentError(f"normalizer: {given}, [1] on {device} is needed")
    if rules.select == "band_cov" and tokens.selected is None and tokens.random is None:
        raise ArgumentError("random: missing, band_cov draws its tokens by it", fix="pass TokenInputs(random=…)")
    mask = tokens.mask
    if tokens.lag is not None and rules.max_lag is not None:
        mask = mask & (tokens.lag <= rules.max_lag)
    return TokenInputs(
        advantage=tokens.advantage.float().contiguous(),
        logp_old=tokens.logp_old.float().contiguous(),
        mask=mask.contiguous(),
        weight=tokens.weight.float().contiguous(),
        normalizer=tokens.normalizer.float().reshape(1),
        selected=None if tokens.selected is None else tokens.selected.contiguous(),
        random=tokens.random,
        temperature=tokens.temperature,
    )


def action_of(tokens: TokenInputs, rules: LossRules) -> int:
    """Return the action of a kernel on selected tokens, one of `policy.ACTIONS`; 0 while none are known."""
    return 0 if tokens.selected is None else ACTIONS[rules.action]


def decided(tokens: TokenInputs, rules: LossRules) -> bool:
    """Return whether every token's rule is known from its own row."""
    return rules.row_local or tokens.selected is not None


def with_selection(tokens: TokenInputs, rules: LossRules, logp: torch.Tensor, entropy: torch.Tensor) -> TokenInputs:
    """Return the tokens with the verdicts of the selection rule on these statistics [M]."""
    return tokens if decided(tokens, rules) else replace(tokens, selected=_selected(tokens, rules, logp, entropy))


def inverse_temperature(temperature: "float | torch.Tensor", count: int, device: torch.device) -> torch.Tensor:
    """Return 1 / T as [1] or [M] float32 on the device: a run-time value, so that no temperature causes a
    compilation."""
    if isinstance(temperature, torch.Tensor):
        check_tokens(count, device, {"temperature": temperature})
        check_types({"temperature": temperature}, allowed=FLOAT_TYPES)
        return temperature.float().contiguous().reciprocal()
    if not temperature > 0:
        raise ArgumentError(f"temperature: {temperature}, above 0 is needed")
    return torch.full((1,), 1.0 / temperature, dtype=torch.float32, device=device)


def spend(ctx: Any) -> None:
    """Let one backward pass through: its gradient replaces what it is computed from."""
    if ctx.spent:
        raise ArgumentError(
            "a second backward pass through the fused loss: the gradient has replaced what it was computed from",
            fix="call it once, or compute the loss again",
        )
    ctx.spent = True


def _selected(tokens: TokenInputs, rules: LossRules, logp: torch.Tensor, entropy: torch.Tensor) -> torch.Tensor:
    if rules.select == "top_entropy":  # chooses those it does not keep
        return tokens.mask & ~select.top_entropy_mask(entropy, rules.share, tokens.mask)
    covariance = select.covariance(logp, tokens.advantage, tokens.mask)
    k = select.share_of(tokens.mask, rules.share)
    if rules.select == "top_cov":
        return select.top_k_mask(covariance, k, candidates=tokens.mask)
    assert tokens.random is not None, "checked when the call was made"
    low, high = rules.band
    inside = tokens.mask & (covariance > low) & (covariance < high) & ~clipped_away(logp, tokens, rules)
    return select.smallest_random_mask(tokens.random, k, candidates=inside)
