"""Weights for the difference between the policy that sampled and the learner's: engine mismatch and staleness. No
gradient.

w = exp(log p_old - log p_rollout), the exponent clamped to +-20. The weight, of several stages their product,
multiplies the policy term after its clip and never changes a denominator. Log-probabilities are in nats. `logp_old` is
the anchor of the ratio. Shapes: logp, logp_old, logp_rollout [N, T]; mask [N, T] bool. Every stage returns [N, T].
"""

from typing import Literal

import torch
from torch import Tensor

from isentrope.kernels.limits import LOG_RATIO_CLAMP
from isentrope.learner.objective import selection
from isentrope.learner.objective.schema import Finite, NonNegative, Positive

Level = Literal["token", "sequence"]


def truncate(
    logp_old: Tensor,
    logp_rollout: Tensor,
    mask: Tensor,
    *,
    high: Positive = 2.0,
    low: NonNegative = 0.0,
    level: Level = "token",
    normalize: bool = False,
) -> Tensor:
    """min(max(w, low), high): [N, T]. Truncated importance sampling, "Your Efficient RL Framework Secretly Brings You
    Off-Policy RL Training" by Yao et al. (2025). `level` "sequence": w is the product over the response, which grows
    with its length. `normalize` divides by the mean weight of the batch.

    Args:
        high: largest weight. Too low trains as if there were no difference; too high lets single tokens dominate.
        low: least weight; 0: none.
        level: a weight per token, or one for the whole response.
        normalize: keep the mean weight at 1, and so the size of a step.
    """
    weight = importance(logp_old, logp_rollout, mask, level=level).clamp(low, high)
    return _normalized(weight, mask, level) if normalize else weight


def band(
    logp_old: Tensor,
    logp_rollout: Tensor,
    mask: Tensor,
    *,
    low: NonNegative = 0.5,
    high: Positive = 5.0,
    level: Level = "token",
    normalize: bool = False,
) -> Tensor:
    """w where low <= w <= high, else 0: [N, T]. IcePop, "Every Step Evolves" by the Ling team
    (https://arxiv.org/abs/2510.18855).

    Args:
        low: weight below which a token is dropped. Too high drops what has become unlikely.
        high: weight above which a token is dropped. Too low drops what has become likely; too high lets single tokens
            dominate.
        level: a weight per token, or one for the whole response.
        normalize: keep the mean weight at 1, and so the size of a step.
    """
    weight = importance(logp_old, logp_rollout, mask, level=level)
    weight = torch.where((weight >= low) & (weight <= high), weight, 0.0)
    return _normalized(weight, mask, level) if normalize else weight


def truncate_current(
    logp: Tensor,
    logp_old: Tensor,
    logp_rollout: Tensor,
    *,
    high: Positive = 5.0,
    of: Literal["all", "mismatch"] = "all",
) -> Tensor:
    """p / p_rollout with the current p, for a surrogate that has no ratio of its own: mismatch, staleness and drift in
    one factor: [N, T]. "Stabilizing Reinforcement Learning with LLMs" by Zheng et al.
    (https://arxiv.org/abs/2512.01374), which leaves open what is truncated:

    all: min(p / p_rollout, high). mismatch: min(p_old / p_rollout, high) p / p_old.

    Args:
        high: largest weight of what is truncated. Too low trains as if there were no difference; too high lets single
            tokens dominate.
        of: which ratio is truncated.
    """
    logp = logp.detach()
    if of == "all":
        return (logp - logp_rollout).clamp(-LOG_RATIO_CLAMP, LOG_RATIO_CLAMP).exp().clamp_max(high)
    mismatch = (logp_old - logp_rollout).clamp(-LOG_RATIO_CLAMP, LOG_RATIO_CLAMP).exp().clamp_max(high)
    return mismatch * (logp - logp_old).clamp(-LOG_RATIO_CLAMP, LOG_RATIO_CLAMP).exp()


def reject(
    logp_old: Tensor,
    logp_rollout: Tensor,
    mask: Tensor,
    *,
    statistic: Literal["ratio", "k1", "k2", "k3"] = "ratio",
    over: Literal["token", "sum", "mean", "max"] = "token",
    low: Finite | None = None,
    high: Finite = 5.0,
    weigh: bool = True,
) -> Tensor:
    """w (or 1, without `weigh`) where low <= statistic <= high, else 0: [N, T].

    The statistic of a token is w, -log w (k1), (log w)^2 / 2 (k2) or w - 1 - log w (k3); `over` takes it for the
    response, w by its logarithm, and then the weight of w is its geometric mean. AReaL's `apply_rejection_sampling` and
    verl's `compute_rollout_rejection_mask`.

    Args:
        statistic: what is measured of a token.
        over: of each token, or taken over its response.
        low: least value that is kept; unset: no bound.
        high: largest value that is kept. Too low drops most of a stale batch; too high keeps outliers.
        weigh: multiply what is kept by w.
    """
    log_w = _log_weight(logp_old, logp_rollout)
    weight = log_w.exp()
    match statistic:
        case "ratio":
            value = log_w if over != "token" else weight
        case "k1":
            value = -log_w
        case "k2":
            value = log_w.square() / 2
        case "k3":
            value = weight - 1 - log_w
    if over != "token":
        value = _over_response(value, mask, over)
        if statistic == "ratio":
            value = value.exp()
            weight = _over_response(log_w, mask, "mean").exp()
    kept = value <= high
    if low is not None:
        kept &= value >= low
    return (weight * kept if weigh else kept.to(weight.dtype)).expand_as(mask)


def second_moment(logp_old: Tensor, logp_rollout: Tensor, mask: Tensor, *, threshold: Positive = 0.04) -> Tensor:
    """1, but 0 for the tokens with the largest (log w)^2, as many as it takes for the mean of the rest to be below
    `threshold`; at least one token stays: [N, T]. M2PO, "Prosperity before Collapse" by Zheng et al.
    (https://arxiv.org/abs/2510.01161), as in AReaL's `_apply_m2po_masking`.

    Args:
        threshold: bound of the mean, in squared nats. Too low drops most of a stale batch; too high drops nothing.
    """
    square = (logp_rollout - logp_old).square()
    values = torch.sort(square[mask], descending=True, stable=True).values
    total = values.double().flip(0).cumsum(0).flip(0)
    mean_of_rest = total / torch.arange(len(values), 0, -1, device=values.device)
    dropped = int((mean_of_rest >= threshold).sum().clamp_max(max(len(values) - 1, 0)))
    return (~selection.top(square, mask, dropped)).to(logp_old.dtype)


def importance(logp_old: Tensor, logp_rollout: Tensor, mask: Tensor, *, level: Level = "token") -> Tensor:
    """w of each token, or their product over the response at each of its tokens: [N, T]."""
    if level == "token":
        return _log_weight(logp_old, logp_rollout).exp()
    total = ((logp_old - logp_rollout) * mask).sum(1, keepdim=True).clamp(-LOG_RATIO_CLAMP, LOG_RATIO_CLAMP)
    return total.exp().expand_as(logp_old)


def _log_weight(logp_old: Tensor, logp_rollout: Tensor) -> Tensor:
    return (logp_old - logp_rollout).clamp(-LOG_RATIO_CLAMP, LOG_RATIO_CLAMP)


def _over_response(value: Tensor, mask: Tensor, over: str) -> Tensor:
    if over == "max":
        largest = torch.where(mask, value, -torch.inf).amax(1, keepdim=True)
        return torch.where(largest.isfinite(), largest, 0.0)
    total = (value * mask).sum(1, keepdim=True)
    return total if over == "sum" else total / mask.sum(1, keepdim=True).clamp_min(1)


def _normalized(weight: Tensor, mask: Tensor, level: Level) -> Tensor:
    if level == "token":
        mean = selection.mean(weight, mask)
    else:
        counted = mask.any(1)
        mean = weight[:, 0][counted].double().mean().to(weight.dtype)
    return torch.where(mean > 0, weight / mean, weight)
