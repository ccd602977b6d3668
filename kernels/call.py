"""What one call of a fused loss carries besides logits and targets, checked and put on the device. Computes no loss.

Shapes: M tokens.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from isentrope.errors import ArgumentError
from isentrope.kernels import select
from isentrope.kernels.checks import FLOAT_TYPES, check_not_empty, check_tokens, check_types
from isentrope.kernels.policy import ACTIONS, LossRules, Tokens, clipped_away


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What applies to all tokens of a call.

    normalizer: factor of the sum over tokens, a number or [1] on the device; None: 1 / number of tokens in the mask.
    temperature: divides the logits; a number, or [M] float32. softcap: c > 0 replaces logits z by c tanh(z / c) before
    the temperature. inplace: the gradient replaces the logits.
    """

    normalizer: "float | torch.Tensor | None" = None
    temperature: "float | torch.Tensor" = 1.0
    softcap: float = 0.0
    inplace: bool = True


@dataclass(frozen=True, slots=True)
class Call:
    """A checked call. random: [M] int32 or None. inverse_temperature: [M] or [1] float32. gradient: may be wanted."""

    rules: LossRules
    tokens: Tokens
    random: torch.Tensor | None
    inverse_temperature: torch.Tensor
    softcap: float
    inplace: bool
    gradient: bool

    @property
    def action(self) -> int:
        """What a kernel does to selected tokens, one of `policy.ACTIONS`; nothing while none are known."""
        return 0 if self.tokens.selected is None else ACTIONS[self.rules.action]

    @property
    def decided(self) -> bool:
        """Every token's rule is known from its own row."""
        return self.rules.row_local or self.tokens.selected is not None

    def with_selection(self, logp: torch.Tensor, entropy: torch.Tensor) -> Tokens:
        """The tokens with the verdicts that the selection rule makes on these statistics [M]."""
        if self.decided:
            return self.tokens
        return self.tokens._replace(selected=self._select(logp, entropy))

    def _select(self, logp: torch.Tensor, entropy: torch.Tensor) -> torch.Tensor:
        rules, tokens = self.rules, self.tokens
        if rules.select == "top_entropy":  # chooses those it does not keep
            return tokens.keep & ~select.top_entropy_mask(entropy, rules.share, tokens.keep)
        covariance = select.covariance(logp, tokens.advantage, tokens.keep)
        k = select.share_of(tokens.keep, rules.share)
        if rules.select == "top_cov":
            return select.top_k_mask(covariance, k, candidates=tokens.keep)
        assert self.random is not None, "checked when the call was made"
        low, high = rules.band
        inside = tokens.keep & (covariance > low) & (covariance < high) & ~clipped_away(logp, tokens, rules)
        return select.smallest_random_mask(self.random, k, candidates=inside)


def make_call(
    advantage: torch.Tensor, logp_old: torch.Tensor, rules: LossRules, tokens: TokenInputs | None, options: Options
) -> Call:
    """Check the per-token inputs against `advantage` [M] and fill in what was left out."""
    count, device = advantage.numel(), advantage.device
    check_not_empty(count)
    extra = tokens if tokens is not None else TokenInputs()
    check_tokens(count, device, {"logp_old": logp_old, "mask": extra.mask, "lag": extra.lag, "weight": extra.weight})
    check_tokens(count, device, {"selected": extra.selected, "random": extra.random})
    check_types({"advantage": advantage, "logp_old": logp_old, "weight": extra.weight}, allowed=FLOAT_TYPES)
    check_types({"mask": extra.mask, "selected": extra.selected}, allowed=(torch.bool,))
    check_types({"random": extra.random}, allowed=(torch.int32,))
    check_types({"lag": extra.lag}, allowed=(torch.int64, torch.int32))
    if options.softcap < 0:
        raise ArgumentError(f"softcap: {options.softcap}, 0 (none) or more is needed")
    if rules.select == "band_cov" and extra.selected is None and extra.random is None:
        raise ArgumentError("random: missing, band_cov draws its tokens by it", fix="pass TokenInputs(random=…)")
    everything = torch.ones(count, dtype=torch.bool, device=device)
    mask = everything if extra.mask is None else extra.mask
    keep = mask if extra.lag is None or rules.max_lag is None else mask & (extra.lag <= rules.max_lag)
    record = Tokens(
        advantage=advantage.float().contiguous(),
        logp_old=logp_old.float().contiguous(),
        weight=everything.float() if extra.weight is None else extra.weight.float().contiguous(),
        keep=keep.contiguous(),
        selected=None if extra.selected is None else extra.selected.contiguous(),
        normalizer=_normalizer(options.normalizer, mask),
    )
    inverse = inverse_temperature(options.temperature, count, device)
    gradient = torch.is_grad_enabled()  # inside of an autograd function it never is
    return Call(rules, record, extra.random, inverse, float(options.softcap), options.inplace, gradient)


def inverse_temperature(temperature: "float | torch.Tensor", count: int, device: torch.device) -> torch.Tensor:
    """1 / T as [1] or [M] float32 on the device: a run-time value, so that no temperature causes a compilation."""
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


def _normalizer(normalizer: "float | torch.Tensor | None", mask: torch.Tensor) -> torch.Tensor:
    if isinstance(normalizer, torch.Tensor):
        if normalizer.numel() != 1 or normalizer.device != mask.device:
            given = f"{tuple(normalizer.shape)} on {normalizer.device}"
            raise ArgumentError(f"normalizer: {given}, [1] on {mask.device} is needed")
        return normalizer.float().reshape(1)
    if normalizer is not None:
        return torch.full((1,), normalizer, dtype=torch.float32, device=mask.device)
    return mask.sum(dtype=torch.float32).clamp(min=1).reciprocal().reshape(1)
