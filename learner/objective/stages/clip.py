"""Policy surrogates: the loss of a token given its ratio and advantage. The only stages whose gradient the policy
follows.

r is the ratio p / p_anchor, A the advantage, p the probability of the sampled token,
log-probabilities in nats. Shapes: ratio (with gradient), logp (with gradient), logp_anchor, advantage [N, T]; mask
[N, T] bool. Every surrogate returns a loss per token [N, T], to be minimised; with ratio 1 its gradient with respect to
logp is -advantage.
"""

import math
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from isentrope.kernels.limits import LOG_RATIO_CLAMP
from isentrope.learner.objective.schema import Fraction, NonNegative, Positive

Dual = Annotated[float, Field(gt=1)] | None
LEAST_LOG_WEIGHT = math.log(1e-8)
"""Least logarithm of a response's ratio that `gamma_weight` tells apart."""


def ppo(ratio: Tensor, advantage: Tensor, *, low: Fraction = 0.2, high: NonNegative = 0.2, dual: Dual = None) -> Tensor:
    """max(-A r, -A clip(r, 1 - low, 1 + high)): [N, T].

    Schulman et al. (https://arxiv.org/abs/1707.06347), equation 7; `high` above `low` is the clip-higher of Yu et al.
    (https://arxiv.org/abs/2503.14476), equation 10. `dual` bounds the loss of a negative advantage by -A dual:
    "Mastering Complex Control in MOBA Games" by Ye et al. (https://arxiv.org/abs/1912.09729).

    Args:
        low: how far a ratio may fall below 1 before a negative advantage loses its gradient. Too low ends learning
            after the first update; too high lets the policy run away from what sampled.
        high: how far a ratio may rise above 1 before a positive advantage loses its gradient. Above `low` it lets
            unlikely tokens grow, which holds entropy up; too high bounds nothing.
        dual: largest loss of a negative advantage, as a multiple of it; unset: none. Near 1 failures teach little.
    """
    loss = torch.maximum(-advantage * ratio, -advantage * ratio.clamp(1 - low, 1 + high))
    return _dual_clipped(loss, advantage, dual)


def none(ratio: Tensor, advantage: Tensor) -> Tensor:
    """-A r: [N, T]. Importance-weighted policy gradient; Cui et al. (https://arxiv.org/abs/2505.22617)."""
    return -advantage * ratio


def preserving(
    ratio: Tensor,
    advantage: Tensor,
    *,
    low: Fraction = 0.2,
    high: NonNegative = 0.2,
    below: NonNegative = 0.75,
    above: NonNegative = 1.0,
    dual: Dual = None,
) -> Tensor:
    """-A r within bounds; what `ppo` would clip is -`below` (1 - low) A r / sg[r] or -`above` (1 + high) A r / sg[r],
    and so keeps a bounded gradient: [N, T].

    "CE-GPPO: Coordinating Entropy via Gradient-Preserving Clipping" by Su et al. (https://arxiv.org/abs/2509.20712),
    their beta_1 and beta_2. `dual` as in `ppo`.

    Args:
        low: how far a ratio may fall below 1 before its gradient is bounded, if A < 0. Too low
            bounds nearly every token; too high bounds nothing.
        high: how far a ratio may rise above 1 before its gradient is bounded, if A > 0. Too low
            bounds nearly every token; too high bounds nothing.
        below: weight of gradients below the bound, 0: none. They lower entropy where they punish what is already
            improbable: too high loses it, too low lets it grow.
        above: weight of gradients above the bound, 0: none. They raise what was improbable, and entropy with it: too
            high makes the policy write noise, too low loses entropy.
        dual: largest loss of a negative advantage, as a multiple of it; unset: none. Near 1 failures teach little.
    """
    fallen = (advantage < 0) & (ratio < 1 - low)
    risen = (advantage > 0) & (ratio > 1 + high)
    slope = ratio / ratio.detach()
    kept = torch.where(fallen, below * (1 - low) * slope, torch.where(risen, above * (1 + high) * slope, ratio))
    return _dual_clipped(-advantage * kept, advantage, dual)


def mask(ratio: Tensor, logp: Tensor, advantage: Tensor, *, low: Fraction = 0.2, high: NonNegative = 0.2) -> Tensor:
    """-A log p where the ratio has not left [1 - low, 1 + high] on the side that A pushes to, else 0: [N, T].

    "Stabilizing Reinforcement Learning with LLMs" by Zheng et al. (https://arxiv.org/abs/2512.01374); a
    correction supplies the weight.

    Args:
        low: how far a ratio may fall below 1 before a negative advantage loses its gradient. Too low ends learning
            after the first update; too high bounds nothing.
        high: how far a ratio may rise above 1 before a positive advantage loses its gradient. Too low ends learning
            after the first update; too high bounds nothing.
    """
    cut = ((advantage > 0) & (ratio > 1 + high)) | ((advantage < 0) & (ratio < 1 - low))
    return -advantage * logp * ~cut


def truncated_ratio(
    ratio: Tensor, logp: Tensor, advantage: Tensor, *, low: Fraction = 1.0, high: NonNegative = 4.0
) -> Tensor:
    """-sg[clip(r, 1 - low, 1 + high)] A log p: [N, T]. Every token keeps a gradient.

    "MiniMax-M1" by MiniMax (https://arxiv.org/abs/2506.13585). The value of the loss means nothing, log p being
    unbounded: watch its gradient.

    Args:
        low: 1 minus the least factor on a gradient; 1: none.
        high: the largest factor on a gradient, minus 1. Too low trains as if nothing were stale; too high lets single
            tokens dominate.
    """
    return -ratio.detach().clamp(1 - low, 1 + high) * advantage * logp


def soft_gate(ratio: Tensor, advantage: Tensor, *, positive: Positive = 1.0, negative: Positive = 1.05) -> Tensor:
    """-A (4 / tau) sigmoid(tau (r - 1)), tau by the sign of A: [N, T].

    "Soft Adaptive Policy Optimization" by Gao et al. (https://arxiv.org/abs/2511.20347).

    Args:
        positive: tau of positive advantages. The higher, the sooner a gradient fades as the ratio leaves 1.
        negative: tau of negative advantages. The higher, the sooner a gradient fades as the ratio leaves 1.
    """
    tau = torch.where(advantage > 0, torch.full_like(ratio, positive), torch.full_like(ratio, negative))
    return -advantage * torch.sigmoid(tau * (ratio - 1)) * (4 / tau)


def geometric_mean(
    log_ratio: Tensor, advantage: Tensor, mask: Tensor, *, low: NonNegative = 0.4, high: NonNegative = 0.4
) -> Tensor:
    """-A exp(mean_t of the log ratios, each clipped to [-low, high] on the side that A pushes to): [N, T].

    "Geometric-Mean Policy Optimization" by Zhao et al. (https://arxiv.org/abs/2507.20673); constant over the
    response, so that a mean over responses of means over tokens is the paper's.

    Args:
        low: bound of a log ratio below 0, in nats. Too low ends learning after the first update; too high bounds
            nothing.
        high: bound of a log ratio above 0, in nats. Too low ends learning after the first update; too high bounds
            nothing.
    """
    sign = advantage.sign()
    pessimistic = sign * torch.minimum(sign * log_ratio, sign * log_ratio.clamp(-low, high))
    count = mask.sum(1, keepdim=True).clamp_min(1)
    ratio = ((pessimistic * mask).sum(1, keepdim=True) / count).exp()
    mean_advantage = (advantage * mask).sum(1, keepdim=True) / count
    return (-mean_advantage * ratio).expand_as(advantage)


def total_variation(
    ratio: Tensor,
    logp: Tensor,
    logp_anchor: Tensor,
    advantage: Tensor,
    *,
    low: NonNegative = 0.2,
    high: NonNegative = 0.2,
    cap: Positive = 20.0,
) -> Tensor:
    """-A sg[min(r, cap)] log p where |p - p_anchor| is within bounds on the side that A pushes to, else 0: [N, T].

    "Rethinking the Trust Region in LLM Reinforcement Learning" (https://arxiv.org/abs/2602.04879), the binary total
    variation form.

    Args:
        low: largest fall of the probability of a token. Too low ends learning after the first update; too high bounds
            nothing.
        high: largest rise of the probability of a token. Too low ends learning after the first update; too high bounds
            nothing.
        cap: largest factor on a gradient. Too high lets single tokens dominate.
    """
    change = (logp.exp() - logp_anchor.exp()).detach()
    kept = torch.where(advantage > 0, change <= high, change >= -low)
    return -advantage * ratio.detach().clamp_max(cap) * logp * kept


def divergence(
    ratio: Tensor,
    logp: Tensor,
    logp_anchor: Tensor,
    advantage: Tensor,
    *,
    low: NonNegative = 0.05,
    high: NonNegative = 0.05,
    cap: Positive = 20.0,
) -> Tensor:
    """As `total_variation`, bounding the KL divergence between the two Bernoulli distributions "this token or another".

    https://arxiv.org/abs/2602.04879, the binary KL form: p_a log(p_a / p) + (1 - p_a) log((1 - p_a) / (1 - p)).

    Args:
        low: largest divergence in nats where a negative advantage lowers p. Too low ends learning after the first
            update; too high bounds nothing.
        high: largest divergence in nats where a positive advantage raises p. Too low ends learning after the first
            update; too high bounds nothing.
        cap: largest factor on a gradient. Too high lets single tokens dominate.
    """
    p, p_anchor = logp.detach().exp(), logp_anchor.exp()
    rest = torch.log((1 - p_anchor + 1e-8) / (1 - p + 1e-8))
    binary_kl = p_anchor * (logp_anchor - logp.detach()) + (1 - p_anchor) * rest
    kept = torch.where(advantage > 0, (binary_kl <= high) | (p <= p_anchor), (binary_kl <= low) | (p >= p_anchor))
    return -advantage * ratio.detach().clamp_max(cap) * logp * kept


def gamma_weight(
    log_ratio: Tensor,
    logp: Tensor,
    advantage: Tensor,
    mask: Tensor,
    *,
    positive_power: NonNegative = 2.0,
    positive_rate: NonNegative = 3.0,
    negative_power: NonNegative = 3.0,
    negative_rate: NonNegative = 2.0,
) -> Tensor:
    """-sg[W^k exp(lambda (1 - W))] A log p, W the product of the response's ratios, k and lambda by the sign of A:
    [N, T].

    "VESPO: Variational Sequence-Level Soft Policy Optimization" (https://arxiv.org/abs/2602.10693). The factor on the
    gradient is 1 for W = 1, largest for W = k / lambda, and fades on both sides of it. The logarithm of W is kept
    within log 1e-8 and 20, as in the released code.

    Args:
        positive_power: k of advantages >= 0. Too low learns from what the policy has left; too high only from what it
            has come to prefer.
        positive_rate: lambda of advantages >= 0. Too low lets responses that have become likely dominate; too high
            stops learning from them at once.
        negative_power: k of negative advantages. Too low goes on punishing what is already improbable.
        negative_rate: lambda of negative advantages. Too low lets responses that have become likely dominate.
    """
    total = (log_ratio.detach() * mask).sum(1, keepdim=True).clamp(LEAST_LOG_WEIGHT, LOG_RATIO_CLAMP)
    positive = (positive_power * total + positive_rate * (1 - total.exp())).exp()
    negative = (negative_power * total + negative_rate * (1 - total.exp())).exp()
    return -torch.where(advantage >= 0, positive, negative) * advantage * logp


def score_function(logp: Tensor, advantage: Tensor) -> Tensor:
    """-A log p: [N, T]. Williams (1992)."""
    return -advantage * logp


def _dual_clipped(loss: Tensor, advantage: Tensor, dual: float | None) -> Tensor:
    """Return the loss [N, T], that of a negative advantage at most -A `dual`."""
    return loss if dual is None else torch.where(advantage < 0, torch.minimum(loss, -advantage * dual), loss)
