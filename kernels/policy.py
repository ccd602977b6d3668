# mypy: allow-untyped-defs, allow-untyped-decorators, allow-untyped-calls, allow-incomplete-defs
# pyright: reportGeneralTypeIssues=false, reportCallIssue=false, reportArgumentType=false, reportAttributeAccessIssue=false
"""The rules of a policy loss that look at one token at a time: loss, and its derivatives by log-prob and entropy.

The same formulas twice, side by side: for PyTorch (`coefficients`, any float type, the ground truth) and for a kernel
(`token_policy`). Method names do not exist here; a method is a setting of `LossRules`.

With x = clamp(logp - logp_old, +-c), r = e^x, A the advantage:

    l1 = -A r,  l2 = -A clip(r, 1 - low, 1 + high),  l = max(l1, l2);  A < 0: l = min(l, -A dual)       PPO, dual clip
    drop on selected tokens:    l = 0                                                                    Clip-Cov
    abs_kl on selected tokens:  l + kl_coef |logp - logp_old|                                            KL-Cov
    loss = normalizer * mask * (weight * l [+ penalty] - entropy_coef * H),   mask without lag > max_lag
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import triton
import triton.language as tl

from isentrope.errors import ArgumentError
from isentrope.kernels.base_2 import LOG2E
from isentrope.kernels.limits import LOG_RATIO_CLAMP

UNBOUNDED = 3.0e38
"""Stands for a rule that is switched off: a bound that no ratio reaches."""

ACTIONS = {"none": 0, "drop": 1, "abs_kl": 2}


@dataclass(frozen=True, slots=True, kw_only=True)
class LossRules:
    """Generic rules of a policy loss.

    clip_low, clip_high: the ratio is clipped to [1 - low, 1 + high]; both None: not at all. clip_dual: bound on the
    loss of negative advantages, as a ratio > 1; None: none. select: which tokens are selected over the whole call:
    `top_cov`, the `share` with the largest covariance of advantage and log-prob; `band_cov`, a random `share` of those
    with `band[0] < covariance < band[1]` and not clipped; `top_entropy`, all but the `share` of highest entropy.
    action: what is done to selected tokens. kl_coef: of `abs_kl`. entropy_coef: of the bonus. max_lag: older tokens
    carry no loss; None: any age. log_ratio_clamp: c above, in nats.
    """

    clip_low: float | None = 0.2
    clip_high: float | None = 0.2
    clip_dual: float | None = None
    select: Literal["none", "top_cov", "band_cov", "top_entropy"] = "none"
    action: Literal["drop", "abs_kl"] = "drop"
    share: float = 0.0
    band: tuple[float, float] = (1.0, 5.0)
    kl_coef: float = 1.0
    entropy_coef: float = 0.0
    max_lag: int | None = None
    log_ratio_clamp: float = LOG_RATIO_CLAMP

    def __post_init__(self) -> None:
        if (self.clip_low is None) != (self.clip_high is None):
            raise ArgumentError(f"rules: clip_low {self.clip_low} and clip_high {self.clip_high}: give both or neither")
        if self.clip_dual is not None and self.clip_dual <= 1:
            raise ArgumentError(f"rules: clip_dual {self.clip_dual}, a ratio above 1 is needed")
        if self.select != "none" and not 0 < self.share <= 1:
            raise ArgumentError(f"rules: share {self.share}, 0 < share <= 1 is needed to select {self.select}")

    @property
    def row_local(self) -> bool:
        """True if no rule looks beyond its own token."""
        return self.select == "none"

    def scalars(self) -> tuple[float, float, float, float, float, float]:
        """Return a kernel's arguments: low bound, high bound, dual bound, kl_coef, entropy_coef, log-ratio clamp."""
        low = -UNBOUNDED if self.clip_low is None else 1.0 - self.clip_low
        high = UNBOUNDED if self.clip_high is None else 1.0 + self.clip_high
        dual = UNBOUNDED if self.clip_dual is None else float(self.clip_dual)
        # floats all: a kernel is compiled anew for an integer
        return low, high, dual, float(self.kl_coef), float(self.entropy_coef), float(self.log_ratio_clamp)


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenInputs:
    """Everything that a policy loss takes per token besides logits and targets.

    On the device of the logits and [M] for a kernel; wherever they are and of any shape for whoever prepares them.
    """

    advantage: torch.Tensor
    """[M]"""
    logp_old: torch.Tensor
    """[M], nats."""
    mask: torch.Tensor
    """[M] bool: may carry loss."""
    weight: torch.Tensor
    """[M]: factor of the policy part (masks, corrections)."""
    normalizer: torch.Tensor
    """[1]: factor of everything, global denominators included."""
    selected: torch.Tensor | None = None
    """[M] bool: verdicts made elsewhere, as over a whole batch; the rules then select nothing."""
    lag: torch.Tensor | None = None
    """[M] integer: batches since the token was sampled."""
    random: torch.Tensor | None = None
    """[M] int32 random bits, needed by `band_cov`."""
    temperature: float | torch.Tensor = 1.0
    """Divides the logits: a number, or [M]."""

    @classmethod
    def averaged(
        cls, advantage: torch.Tensor, logp_old: torch.Tensor, mask: torch.Tensor | None = None
    ) -> "TokenInputs":
        """Return the inputs of a loss that is the plain mean over the tokens of `mask` [M] bool; None: over all."""
        mask = torch.ones_like(advantage, dtype=torch.bool) if mask is None else mask
        normalizer = mask.sum(dtype=torch.float32).clamp(min=1).reciprocal().reshape(1)
        weight = torch.ones_like(advantage, dtype=torch.float32)
        return cls(advantage=advantage, logp_old=logp_old, mask=mask, weight=weight, normalizer=normalizer)

    def take(self, rows: "slice | torch.Tensor") -> "TokenInputs":
        """Return the inputs of some tokens; the normalizer stays that of all."""
        return self.changed(lambda values: values[rows])

    def changed(self, change: Callable[[torch.Tensor], torch.Tensor]) -> "TokenInputs":
        """Return the inputs with `change` applied to whatever there is per token."""

        def of(values: torch.Tensor | None) -> torch.Tensor | None:
            return None if values is None else change(values)

        return TokenInputs(
            advantage=change(self.advantage),
            logp_old=change(self.logp_old),
            mask=change(self.mask),
            weight=change(self.weight),
            normalizer=self.normalizer,
            selected=of(self.selected),
            lag=of(self.lag),
            random=of(self.random),
            temperature=change(self.temperature) if isinstance(self.temperature, torch.Tensor) else self.temperature,
        )


class Coefficients(NamedTuple):
    """loss: [M]. by_logp: [M], d loss / d logp. by_entropy: [M], d loss / d H. All include weights and normaliser."""

    loss: torch.Tensor
    by_logp: torch.Tensor
    by_entropy: torch.Tensor


def coefficients(logp: torch.Tensor, entropy: torch.Tensor, tokens: TokenInputs, rules: LossRules) -> Coefficients:
    """Return the loss of every token and its derivatives; `logp`, `entropy`: [M]. No autograd is involved."""
    low, high, dual, kl_coef, entropy_coef, clamp = rules.scalars()
    difference = logp - tokens.logp_old
    ratio = difference.clamp(-clamp, clamp).exp()
    advantage = tokens.advantage
    plain, clipped = -advantage * ratio, -advantage * ratio.clamp(low, high)
    bound = torch.where(advantage < 0, -advantage * dual, UNBOUNDED)
    loss = torch.minimum(torch.maximum(plain, clipped), bound)
    moves = (plain >= clipped) & (plain <= bound) & (difference.abs() <= clamp)
    by_logp = torch.where(moves, plain, 0.0)
    loss, by_logp = tokens.weight * loss, tokens.weight * by_logp
    if tokens.selected is not None:
        chosen = tokens.selected.to(loss.dtype)
        if rules.action == "drop":
            loss, by_logp = loss * (1 - chosen), by_logp * (1 - chosen)
        else:
            loss = loss + chosen * kl_coef * difference.abs()
            by_logp = by_logp + chosen * kl_coef * difference.sign()
    scale = torch.where(tokens.mask, tokens.normalizer, 0.0)
    zero = torch.zeros_like(loss)
    return Coefficients(
        torch.where(tokens.mask, scale * (loss - entropy_coef * entropy), zero),
        torch.where(tokens.mask, scale * by_logp, zero),
        torch.where(tokens.mask, -scale * entropy_coef, zero),
    )


def clipped_away(logp: torch.Tensor, tokens: TokenInputs, rules: LossRules) -> torch.Tensor:
    """Return which tokens' clipped branch is the larger one, so that their loss does not move with logp: [M] bool."""
    low, high, _, _, _, clamp = rules.scalars()
    ratio = (logp - tokens.logp_old).clamp(-clamp, clamp).exp()
    return -tokens.advantage * ratio.clamp(low, high) > -tokens.advantage * ratio


@triton.jit
def token_policy(
    logp, entropy, advantage, logp_old, weight, chosen, scale, action,
    low, high, dual, kl_coef, entropy_coef, clamp,
):  # fmt: skip
    """Compute `coefficients` for scalars or blocks.

    `chosen` and `scale` are numbers (0 where the token must not count).
    """
    difference = logp - logp_old
    ratio = tl.exp2(tl.minimum(tl.maximum(difference, -clamp), clamp) * LOG2E)
    plain = -advantage * ratio
    clipped = -advantage * tl.minimum(tl.maximum(ratio, low), high)
    bound = tl.where(advantage < 0, -advantage * dual, 3.0e38)
    loss = tl.minimum(tl.maximum(plain, clipped), bound)
    loss = tl.where(difference != difference, difference, loss)  # a minimum would hide NaN
    moves = (plain >= clipped) & (plain <= bound) & (tl.abs(difference) <= clamp)
    by_logp = weight * tl.where(moves, plain, 0.0)
    loss = weight * loss
    kept = tl.where(action == 1, 1.0 - chosen, 1.0)
    penalty = tl.where(action == 2, chosen * kl_coef, 0.0)
    sign = tl.where(difference > 0, 1.0, tl.where(difference < 0, -1.0, 0.0))
    loss = kept * loss + penalty * tl.abs(difference)
    by_logp = kept * by_logp + penalty * sign
    return (
        tl.where(scale != 0, scale * (loss - entropy_coef * entropy), 0.0),
        tl.where(scale != 0, scale * by_logp, 0.0),
        tl.where(scale != 0, -scale * entropy_coef, 0.0),
    )
