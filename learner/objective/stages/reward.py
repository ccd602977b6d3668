"""Reward shaping, before any baseline.

Stages run in the order in which they stand here, each on the result of the one before: first what a correct answer is
worth, then terms of length. A stage returns the new reward of each response [N], or a penalty per token [N, T] that is
added to it.

Shapes: reward [N]; correct, truncated [N] bool; length, group [N] int64; mask, valid [N, T] bool; log-probabilities
[N, T]. Statistics of the learner before the update are there already.
"""

from typing import Literal

import torch
from torch import Tensor

from isentrope.learner.objective import selection
from isentrope.learner.objective.schema import Count, Finite, Fraction, NonNegative, Share


def scheme(reward: Tensor, correct: Tensor, *, right: Finite = 1.0, wrong: Finite = 0.0) -> Tensor:
    """`right` for a correct response, `wrong` for another, whatever the reward functions gave: [N].

    Args:
        right: reward of a correct response.
        wrong: reward of any other response.
    """
    return torch.where(correct, torch.full_like(reward, right), torch.full_like(reward, wrong))


def unlikeliness(
    reward: Tensor,
    logp_old: Tensor,
    valid: Tensor,
    group: Tensor,
    *,
    beta: Fraction = 0.25,
    rule: Literal["paper", "code"] = "code",
    by: Literal["mean", "sum"] = "mean",
) -> Tensor:
    """Takes more of the reward from responses that were likely, so that rare correct ones weigh more: [N].

    R_i (1 - beta (G - rank_i) / G), rank 0 the likeliest of the group to the learner before the update, whole responses
    compared: "Rewarding the Unlikely" by He et al. (https://arxiv.org/abs/2506.02355). The released code takes beta / G
    less from every response, so that the least likely keeps all, and ranks by the mean log-probability of a token
    instead of that of the response.

    Graded rewards are scaled in the same way, each by its own size; one below 0 is then raised, most for the likeliest
    response, so give rewards that are not negative.

    Args:
        beta: share of its reward that the likeliest response loses. Too high rewards whatever is improbable; 0 does
            nothing.
        rule: the formula of the paper, or that of its released code.
        by: likelihood of a response: the mean log-probability of its tokens, or their sum, which falls with length.
    """
    total = (logp_old * valid).sum(1)
    likelihood = total / valid.sum(1).clamp_min(1) if by == "mean" else total
    ascending = selection.group_rank(likelihood, group).to(reward.dtype)
    if rule == "paper":
        ascending = ascending + 1
    return reward * (1 - beta * ascending / selection.group_size(group))


def stop_properly(reward: Tensor, truncated: Tensor, *, coef: Finite) -> Tensor:
    """Truncated responses get `coef` times their reward, or `coef` itself if it is negative: [N].

    ProRL v2, as in OpenRLHF's `apply_stop_properly_penalty`. With negative rewards for wrong answers a `coef` of 0 pays
    for being truncated: use rewards 0 and 1, or a negative `coef`.

    Args:
        coef: factor on the reward of a truncated response, or that reward itself if negative. 1 does nothing; far below
            0 teaches to be short before it teaches to be right.
    """
    return torch.where(truncated, reward * coef if coef >= 0 else torch.full_like(reward, coef), reward)


def soft_overlong(
    reward: Tensor,
    length: Tensor,
    *,
    limit: Count,
    buffer: Share = 0.2,
    factor: NonNegative = 1.0,
    floor: bool = True,
) -> Tensor:
    """Punishes length linearly in the last `buffer` share before `limit` tokens, down to -`factor`: [N].

    0 up to L_exp = limit (1 - buffer), then (L_exp - length) / (limit buffer); Yu et al.
    (https://arxiv.org/abs/2503.14476), equation 13. Without `floor` the line goes on beyond the limit.

    Args:
        limit: tokens at which the punishment is full; `"max_new_tokens"` stands for the limit of sampling.
        buffer: share of `limit` over which the punishment grows. Too small is a sudden step; too large punishes
            ordinary lengths.
        factor: size of the full punishment, in units of reward. Too high outweighs a right answer; 0 does nothing.
        floor: no more than `factor` beyond the limit.
    """
    cache = limit * buffer
    penalty = ((limit - cache - length.to(reward.dtype)) / cache).clamp_max(0.0)
    if floor:
        penalty = penalty.clamp_min(-1.0)
    return reward + factor * penalty


def kl_penalty(logp_old: Tensor, logp_ref: Tensor, mask: Tensor, *, coef: NonNegative) -> Tensor:
    """-coef (log p_old - log p_ref) per token: [N, T]. The KL term of RLHF, "Fine-Tuning Language Models from Human
    Preferences" by Ziegler et al. (https://arxiv.org/abs/1909.08593).

    Args:
        coef: reward that a nat of log ratio to the reference costs. Too high keeps the policy where it began; too low
            lets it drift.
    """
    return -coef * (logp_old - logp_ref) * mask
