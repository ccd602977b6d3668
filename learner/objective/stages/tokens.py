"""Weights of tokens in the policy term, from statistics of the whole batch. No gradient.

`logp` and `entropy` are those that the objective's
`stats` names: of the learner before the first update ("old"), of the sampling engine ("rollout"), or current ones of
whatever micro-batch the function is given ("microbatch", which makes the result depend on it). A weight never changes a
denominator. Log-probabilities and entropies are in nats; p = exp(logp), A the advantage, H the entropy.

Shapes: logp, logp_old, entropy, advantage, uniform, sum_p2, sum_p2_logp [N, T]; mask, clipped, step_correct [N, T]
bool; correct [N] bool. Every stage returns [N, T]; values off the mask do not matter.
"""

import math
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from isentrope.learner.objective import selection
from isentrope.learner.objective.schema import Finite, NonNegative, Positive, Share

Weight = Annotated[float, Field(ge=0, le=1)]


def top_entropy(entropy: Tensor, mask: Tensor, *, keep: Share = 0.2) -> Tensor:
    """1 for tokens whose entropy is at least the (1 - keep) quantile of the batch, else 0: [N, T].

    "Beyond the 80/20 Rule" by Wang et al. (https://arxiv.org/abs/2506.01939). The denominator stays all tokens, so a
    step gets smaller by about `keep`.

    Args:
        keep: share of tokens that are trained. Too low takes small steps; 1 does nothing.
    """
    return (entropy >= selection.quantile(entropy, mask, 1 - keep)).to(entropy.dtype)


def top_cov(logp: Tensor, advantage: Tensor, mask: Tensor, *, share: Share = 2e-4) -> Tensor:
    """0 for the tokens that add most to the covariance of log-probability and advantage, else 1: [N, T]. The selection
    of `top_covariance`, dropped instead of penalised.

    Args:
        share: share of all tokens that are dropped, one at least. Too low lets entropy fall; too high drops what is
            learned from.
    """
    return (~top_covariance(logp, advantage, mask, share=share)).to(logp.dtype)


def band_cov(
    logp: Tensor,
    advantage: Tensor,
    mask: Tensor,
    clipped: Tensor,
    uniform: Tensor,
    *,
    share: Share = 2e-4,
    low: Finite = 1.0,
    high: Finite = 5.0,
) -> Tensor:
    """0 for a random `share` of all tokens, taken from those with low < covariance < high that are not clipped: [N, T].

    max(floor(share * tokens), 1) tokens, or all candidates if they are fewer; `uniform` is the draw: the smallest are
    taken. Cui et al. (https://arxiv.org/abs/2505.22617), Clip-Cov.

    Args:
        share: share of all tokens that are dropped, one at least. Too low lets entropy fall; too high drops what is
            learned from.
        low: covariance above which a token may be drawn. Too high finds no candidates.
        high: covariance below which a token may be drawn.
    """
    covariance = selection.covariance(logp, advantage, mask)
    candidates = mask & (covariance > low) & (covariance < high) & ~clipped
    return (~selection.top(-uniform, candidates, selected_count(mask, share))).to(logp.dtype)


def entropy_change(
    logp: Tensor,
    logp_old: Tensor,
    entropy: Tensor,
    advantage: Tensor,
    mask: Tensor,
    *,
    map: Literal["exponential", "linear"] = "exponential",
    min: Weight = 0.8,
    max: Positive = 1.0,
    floor: NonNegative = 0.02,
) -> Tensor:
    """Less weight for tokens whose update changes the entropy much: [N, T]; see `damp` for the weight.

    Omega = (A / p_old) p (1 - p) (log p + H), to first order the entropy change by a step on this token: "Rethinking
    Entropy Interventions in RLVR" by Hao et al. (https://arxiv.org/abs/2510.10150).

    Args:
        map: shape of the fall from small to large change.
        min: weight of the token that changes entropy most. 1 does nothing; 0 takes it out.
        max: weight of the token that changes entropy least; `linear` only.
        floor: least divisor, so that a batch of small changes is hardly damped; `exponential` only. Too high damps
            nothing.
    """
    p, p_old = (x.exp().clamp(1e-8, 1 - 1e-8) for x in (logp, logp_old))
    score = advantage / p_old * p * (1 - p) * (p.log() + entropy)
    return damp(score, mask, map=map, min=min, max=max, floor=floor)


def entropy_change_exact(
    logp: Tensor,
    logp_old: Tensor,
    entropy: Tensor,
    sum_p2: Tensor,
    sum_p2_logp: Tensor,
    advantage: Tensor,
    mask: Tensor,
    *,
    map: Literal["exponential", "linear"] = "exponential",
    min: Weight = 0.8,
    max: Positive = 1.0,
    floor: NonNegative = 0.02,
) -> Tensor:
    """As `entropy_change`, with the exact first-order change: [N, T]; see `exact_entropy_change`.

    Args:
        map: shape of the fall from small to large change.
        min: weight of the token that changes entropy most. 1 does nothing; 0 takes it out.
        max: weight of the token that changes entropy least; `linear` only.
        floor: least divisor, so that a batch of small changes is hardly damped; `exponential` only. Too high damps
            nothing.
    """
    score = exact_entropy_change(logp, logp_old, entropy, sum_p2, sum_p2_logp, advantage)
    return damp(score, mask, map=map, min=min, max=max, floor=floor)


def discriminator(
    logp: Tensor, entropy: Tensor, advantage: Tensor, mask: Tensor, *, deviations: NonNegative = 2.5
) -> Tensor:
    """0 for tokens with A < 0 whose S = p (log p + H) is more than `deviations` standard deviations below the mean of
    the batch, else 1: [N, T].

    To first order a step up on a token changes its entropy by -S, so that punishing one of small S sharpens the
    distribution. "On the Entropy Dynamics in Reinforcement Fine-Tuning of Large Language Models" by Wang et al.
    (https://arxiv.org/abs/2602.03392), Clip_B; their code takes dropped tokens out of the denominator as well.

    Args:
        deviations: distance from the mean beyond which a token is dropped. Too low drops what is learned from; too high
            lets entropy fall.
    """
    score = logp.exp() * (logp + entropy)
    centred = (score - selection.mean(score, mask)).masked_fill(~mask, 0.0)
    deviation = selection.mean(centred.square(), mask).sqrt()
    dropped = (advantage < 0) & (centred < -deviations * deviation) & (deviation > 1e-12)
    return (~dropped).to(logp.dtype)


def centred_discriminator(
    logp: Tensor,
    entropy: Tensor,
    sum_p2: Tensor,
    sum_p2_logp: Tensor,
    advantage: Tensor,
    mask: Tensor,
    *,
    deviations: NonNegative = 8.5,
    share: Share = 1e-4,
) -> Tensor:
    """0 for tokens with A < 0 whose D = E S - S is more than `deviations` standard deviations of the batch, the largest
    ones up to `share` of all tokens, else 1: [N, T].

    S = p (log p + H), and E S = sum_k p_k^2 (log p_k + H), its mean over the vocabulary: to first order, punishing a
    token changes its entropy by -|A| D. Wang et al. as above, Clip_V; their code measures D from 0 and its deviation
    from the mean, and takes dropped tokens out of the denominator as well.

    Args:
        deviations: distance from 0 beyond which a token is dropped. Too low drops what is learned from; too high lets
            entropy fall.
        share: share of all tokens that are dropped, at most; one may always be. Too low lets entropy fall.
    """
    fall = sum_p2_logp + entropy * sum_p2 - logp.exp() * (logp + entropy)
    deviation = selection.mean((fall - selection.mean(fall, mask)).masked_fill(~mask, 0.0).square(), mask).sqrt()
    candidates = mask & (advantage < 0) & (fall > deviations * deviation) & (deviation > 1e-12)
    return (~selection.top(fall, candidates, selected_count(mask, share))).to(logp.dtype)


def positive_weight(advantage: Tensor, *, value: NonNegative = 1.0) -> Tensor:
    """`value` where A > 0, else 1: [N, T]. "Revisiting Entropy in Reinforcement Learning for Large Reasoning Models"
    (https://arxiv.org/abs/2511.05993).

    Args:
        value: factor on positive advantages. Below 1 entropy falls more slowly; 0 learns from failures alone.
    """
    one = torch.ones_like(advantage)
    return torch.where(advantage > 0, value * one, one)


def step_labels(correct: Tensor, step_correct: Tensor, *, beta: Annotated[float, Field(ge=-1, le=1)] = 0.5) -> Tensor:
    """`beta` on the correct steps of incorrect responses, else 1: [N, T]. 1 takes no notice of steps, 0 ignores such
    tokens, below 0 they are rewarded. "Unearthing Gems from Stones" by Yang et al.
    (https://arxiv.org/abs/2505.14403).

    Args:
        beta: weight of correct steps in incorrect responses.
    """
    return 1.0 + (beta - 1.0) * (step_correct & ~correct[:, None]).double()


def top_covariance(logp: Tensor, advantage: Tensor, mask: Tensor, *, share: Share = 2e-4) -> Tensor:
    """The max(1, floor(share * tokens)) tokens with the largest covariance: [N, T] bool. Cui et al.
    (https://arxiv.org/abs/2505.22617), KL-Cov.

    Args:
        share: share of all tokens that the term is for, one at least. Too low lets entropy fall; too high holds back
            what is learned.
    """
    return selection.top(selection.covariance(logp, advantage, mask), mask, selected_count(mask, share))


def low_entropy_covariance(
    logp: Tensor,
    entropy: Tensor,
    advantage: Tensor,
    mask: Tensor,
    *,
    low: Share = 0.8,
    share: Share = 2e-4,
    top: NonNegative = 2.0,
    bottom: NonNegative = 0.5,
    rest: NonNegative = 0.0,
) -> Tensor:
    """Weights on the `low` share of tokens with the least entropy, by their covariance within that set: [N, T].

    `top` for the `share` with the largest covariance, `bottom` for the `share` with the smallest, `rest` for the others
    of the set, 0 outside. "Efficient Reinforcement Learning with Semantic and Token Entropy for LLM Reasoning"
    (https://arxiv.org/abs/2512.04359), as in its second release.

    Args:
        low: share of tokens, those of least entropy, that the term is for.
        share: share of that set at either end, one token at least.
        top: weight at the end of large covariance. Too high holds back what is learned.
        bottom: weight at the end of small covariance.
        rest: weight of the others of the set.
    """
    inside = mask & (entropy <= selection.quantile(entropy, mask, low))
    covariance = selection.covariance(logp, advantage, inside)
    count = selected_count(inside, share)
    weight = inside.to(logp.dtype) * rest
    weight = torch.where(selection.top(-covariance, inside, count), bottom, weight)
    return torch.where(selection.top(covariance, inside, count), top, weight)


def exact_entropy_change(
    logp: Tensor, logp_old: Tensor, entropy: Tensor, sum_p2: Tensor, sum_p2_logp: Tensor, advantage: Tensor
) -> Tensor:
    """dH / d eta of one token's distribution under a step eta on (p / p_old) A, for free logits: [N, T].

    -(A / p_old) p [p (log p + H) - sum_k p_k^2 (log p_k + H)]. Ours: the step moves logit k by eta (A p / p_old)
    (1[k = a] - p_k), and dH / dz_k = -p_k (log p_k + H).
    """
    p = logp.exp()
    others = sum_p2_logp + entropy * sum_p2
    return -advantage * (logp - logp_old).exp() * (p * (logp + entropy) - others)


def damp(
    score: Tensor,
    mask: Tensor,
    *,
    map: Literal["exponential", "linear"],
    min: float,
    max: float,
    floor: float,
) -> Tensor:
    """Weight from `max` (small |score|) to `min` (the largest of the batch): [N, T]. Hao et al. as above.

    exponential: clip(exp(u ln(min) / max(u_max, floor)), min, 1), u = |score|; linear: between the smallest and the
    largest u of the masked tokens, the middle if they are equal. A score that is not finite counts as 0.
    """
    u = torch.where(score.isfinite() & mask, score.abs(), 0.0)
    largest = u[mask].amax()
    if map == "exponential":
        slope = math.log(min) if min > 0 else -math.inf
        exponent = torch.where(u > 0, u * slope / largest.clamp_min(floor), 0.0)
        return exponent.exp().clamp(min, 1.0)
    smallest = u[mask].amin()
    spread = largest - smallest
    share = torch.where(spread > 0, (u - smallest) / spread, 0.5)
    return (max - share * (max - min)).clamp(min, max)


def selected_count(mask: Tensor, share: float) -> int:
    """max(1, floor(share * masked tokens)); the product is rounded first, so that 0.29 of 100 is 29."""
    return max(1, math.floor(round(share * int(mask.sum()), 9)))
