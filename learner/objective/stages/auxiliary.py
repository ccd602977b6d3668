"""Loss terms beside the policy's: per token, added with their own coefficient and token set.

Shapes: logp, ratio (with gradient), advantage [N, T]; mask, demonstration [N, T] bool; correct [N] bool. A term returns
its loss per token [N, T], 0 outside its set. `..._set` returns the tokens over which the mean is taken, where these are
not all.
"""

import math
from typing import Literal

from torch import Tensor

from isentrope.learner.objective.schema import Finite, Fraction, NonNegative, Positive, Share


def positive_nll(logp: Tensor, correct: Tensor, *, coef: NonNegative = 0.1) -> Tensor:
    """-coef log p on correct responses: [N, T]. Yue et al. (https://arxiv.org/abs/2504.05118), positive example LM
    loss; correctness is the raw one, the mean over the tokens of correct responses of the whole update, correct
    demonstrations included where the run has some.

    Args:
        coef: weight of the term. Too high imitates earlier right answers, and entropy falls.
    """
    return -coef * logp * correct[:, None]


def positive_nll_set(correct: Tensor, mask: Tensor) -> Tensor:
    """The tokens of correct responses: [N, T] bool."""
    return mask & correct[:, None]


def demonstration_nll(logp: Tensor, demonstration: Tensor, *, coef: NonNegative = 0.1) -> Tensor:
    """-coef log p on demonstration tokens: [N, T]; supervised fine-tuning beside the policy term.

    The mean over the tokens of all demonstrations of the update, right or wrong, whatever their advantage.

    Args:
        coef: weight of the term. Too high imitates instead of exploring, and entropy falls.
    """
    return -coef * logp * demonstration


def demonstration_nll_set(demonstration: Tensor, mask: Tensor) -> Tensor:
    """The tokens of demonstrations: [N, T] bool."""
    return mask & demonstration


def high_prob_push(
    ratio: Tensor, logp: Tensor, advantage: Tensor, *, coef: Finite = 0.0, threshold: Share = 0.95
) -> Tensor:
    """-coef r |A| on tokens with p > threshold: [N, T]; a positive `coef` keeps likely tokens likely.

    "EntroPIC" by Yang et al. (https://arxiv.org/abs/2511.15248). The released code divides by the number of such tokens
    of a micro-batch; here the denominator is the policy term's.

    Args:
        coef: weight of the term. Too high makes the policy sure of what it already does; below 0 spreads likely tokens.
        threshold: probability above which a token is likely.
    """
    likely = logp.detach() > math.log(threshold)
    return -coef * ratio * advantage.abs() * likely


def shaped_demonstration(
    logp: Tensor,
    advantage: Tensor,
    demonstration: Tensor,
    *,
    coef: NonNegative = 1.0,
    shape: Literal["saturating", "linear", "power"] = "saturating",
    gamma: Positive = 0.1,
    power: Positive = 0.5,
    low: Fraction = 0.0,
    high: Share = 1.0,
) -> Tensor:
    """-coef A f(p) on demonstration tokens, which the policy term leaves out: [N, T].

    f(p) = p / (p + gamma), whose gradient is largest for tokens that are improbable to us; or p, or p^power; within
    [low, high]. The demonstrator's own probabilities are taken as 1. "Learning to Reason under Off-Policy Guidance" by
    Yan et al. (https://arxiv.org/abs/2504.14945).

    Args:
        coef: weight of the term. Too high imitates instead of exploring.
        shape: which f.
        gamma: probability at which `saturating` reaches half of its height.
        power: exponent of `power`.
        low: least f; tokens below it have no gradient.
        high: largest f; tokens above it have no gradient.
    """
    p = logp.exp()
    match shape:
        case "saturating":
            shaped = p / (p + gamma)
        case "linear":
            shaped = p
        case "power":
            shaped = p**power
    return -coef * advantage * shaped.clamp(low, high) * demonstration
