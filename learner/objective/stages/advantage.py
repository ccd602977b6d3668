"""Baselines and scales: from the rewards of a batch to one number per token that says how much better it did. No
gradient.

A baseline returns the advantage of each response [N] or token [N, T]; a scale multiplies it. Group statistics use the
unbiased variance and are exactly 0 where all rewards of the group are equal, also when their mean is not exact; a
response that is alone in its group has advantage 0.

Shapes: reward, greedy_reward [N]; parts [N, R], with R numbers part_weights; group [N] int64; correct [N] bool;
advantage, token_reward, values, logp_old, logp_ref, sum_p2 [N, T]; mask [N, T] bool. token_reward holds the shaped
reward at the last masked token of a response, and token penalties.
"""

import math
from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from isentrope.learner.objective import selection
from isentrope.learner.objective.schema import Finite, Fraction, Line, NonNegative, Positive

Epsilon = Annotated[float, Field(ge=0, le=1e-2)]


def none(reward: Tensor) -> Tensor:
    """A = R: [N]. "Simple Statistical Gradient-Following Algorithms" by Williams (1992), without baseline."""
    return reward


def constant(reward: Tensor, correct: Tensor, *, right: Finite = 0.0, wrong: Finite = 0.0) -> Tensor:
    """A = R - `right` for correct responses, R - `wrong` for the others: [N]. With rewards 1 and 0, `wrong` = 1 gives
    +1 and -1: Zhu et al. (https://arxiv.org/abs/2506.01347).

    Args:
        right: baseline of correct responses, in units of reward.
        wrong: baseline of the others.
    """
    return reward - torch.where(correct, torch.full_like(reward, right), torch.full_like(reward, wrong))


def group_mean(reward: Tensor, group: Tensor) -> Tensor:
    """A_i = R_i - mean of the group: [N]. "DeepSeekMath" by Shao et al. (https://arxiv.org/abs/2402.03300)."""
    mean = selection.group_sum(reward, group) / selection.group_size(group)
    return _zero_if_equal(reward - mean, reward, group)


def leave_one_out(reward: Tensor, group: Tensor) -> Tensor:
    """A_i = R_i - mean of the others of the group: [N]. "Back to Basics" by Ahmadian et al.
    (https://arxiv.org/abs/2402.14740)."""
    count = selection.group_size(group)
    others = (selection.group_sum(reward, group) - reward) / (count - 1).clamp_min(1)
    return _zero_if_equal(reward - others, reward, group)


def length_weighted(reward: Tensor, group: Tensor, mask: Tensor) -> Tensor:
    """A_i = R_i - sum_j n_j R_j / sum_j n_j over the group: [N], n the number of masked tokens.

    The baseline of least variance if squared gradient norms grow with length: "On-Policy RL with Optimal Reward
    Baseline" by Hao et al. (https://arxiv.org/abs/2505.23585).
    """
    count = mask.sum(1).to(reward.dtype)
    total = selection.group_sum(count, group)
    baseline = selection.group_sum(count * reward, group) / total.clamp_min(1)
    return _zero_if_equal(torch.where(total > 0, reward - baseline, 0.0), reward, group)


def greedy(reward: Tensor, greedy_reward: Tensor) -> Tensor:
    """A_i = R_i - reward of the greedy response to the same prompt: [N]. "ReMax" by Li et al.
    (https://arxiv.org/abs/2310.10505)."""
    return reward - greedy_reward


def best_of_group(reward: Tensor, group: Tensor) -> Tensor:
    """The best response gets its distance to the second best, the others 0: [N].

    Leave-one-out credit for the maximum of the group (pass@G for rewards 0 and 1): "Optimizing Language Models for
    Inference Time Objectives using Reinforcement Learning" by Tang et al. (https://arxiv.org/abs/2503.19595).
    """
    second = selection.max_of_others(reward, group)
    return torch.where(second.isfinite(), (reward - second).clamp_min(0.0), 0.0)


def max_likelihood(reward: Tensor, group: Tensor, *, eps: Epsilon = 1e-6) -> Tensor:
    """A_i = (R_i - mean) / (mean + eps) over the group: [N]. Weighs prompts by the inverse pass rate, which for rewards
    0 and 1 estimates the gradient of log pass rate: "Maximum Likelihood
    Reinforcement Learning" by Tajwar et al. (https://arxiv.org/abs/2602.02710).

    Args:
        eps: added to the mean reward. Too low lets prompts that are almost never solved dominate; too high undoes the
            weighing.
    """
    mean = selection.group_sum(reward, group) / selection.group_size(group)
    return _zero_if_equal((reward - mean) / (mean + eps), reward, group)


def entropy_range(
    reward: Tensor,
    group: Tensor,
    mask: Tensor,
    entropy_old: Tensor,
    progress: float,
    *,
    low: Line = (0.6, 0.4),
    high: Line = (0.7, 0.5),
    shape: Literal["linear", "cosine"] = "linear",
    eps: Epsilon = 1e-6,
) -> Tensor:
    """Credit by the mean entropy H of the batch: [N]. (R_i - mean) / (standard deviation + eps) of the group while H is
    between `low` and `high`, max(R_i, 0) above, which lowers entropy, min(R_i, 0) below. With its own scale.

    "Addressing Performance Saturation for LLM RL via Precise Entropy Curve Control" by Li et al.
    (https://arxiv.org/abs/2604.26326), Entrocraft, as in their code. Both bounds move with progress x from their first
    value to their second by x, or by (1 - cos pi x) / 2. It needs rewards of both signs.

    Args:
        low: lower bound at the start and the end of the run, in nats. Too high never learns from what is right; too low
            gives up exploration.
        high: upper bound at the start and the end of the run, in nats. Too low learns from successes alone; too high
            never lets the policy settle.
        shape: course of the bounds between start and end.
        eps: added to the deviation, in units of reward. Too low blows up groups whose rewards hardly differ.
    """
    share = progress if shape == "linear" else (1 - math.cos(math.pi * progress)) / 2
    entropy = float(selection.mean(entropy_old, mask))
    if entropy > high[0] + (high[1] - high[0]) * share:
        return reward.clamp_min(0.0)
    if entropy < low[0] + (low[1] - low[0]) * share:
        return reward.clamp_max(0.0)
    return group_std(group_mean(reward, group)[:, None], reward, group, eps=eps)[:, 0]


def per_reward(
    parts: Tensor, part_weights: Sequence[float], group: Tensor, mask: Tensor, *, eps: Epsilon = 1e-4
) -> Tensor:
    """A_i = (S_i - mean of S) / (standard deviation of S + eps) over the responses of the batch, with S_i = sum_k w_k
    (r_ik - mean) / (standard deviation + eps) over the group, for each reward function k: [N]. With its own scale.

    "GDPO" by Liu et al. (https://arxiv.org/abs/2601.05242): responses with the same sum of different rewards keep
    different advantages. Weights are `data.reward_weights`; a function that gave a response no value adds 0 for it, and
    responses without a trained token are not part of the batch's statistics. `eps` as in TRL's `normalize_then_sum`.

    Args:
        eps: added to both deviations, in units of reward. Too low blows up groups whose rewards hardly differ.
    """
    total = torch.zeros_like(parts[:, 0])
    for weight, value in zip(part_weights, parts.T, strict=True):
        known = value.isfinite().nonzero()[:, 0]
        reward, owner = value[known], group[known]
        scaled = group_std(group_mean(reward, owner)[:, None], reward, owner, eps=eps)[:, 0]
        total = total.index_add(0, known, weight * scaled)
    counted = total[mask.any(1)].double()
    deviation = counted.std() if len(counted) > 1 else torch.zeros_like(counted.sum())
    return ((total - counted.mean()) / (deviation + eps)).to(parts.dtype)


def teacher(
    logp_old: Tensor,
    logp_ref: Tensor,
    mask: Tensor,
    *,
    divergence: Literal["reverse", "forward"] = "reverse",
    limit: Positive = 20.0,
) -> Tensor:
    """A_t = log p_ref - log p_old of each token, by which a policy gradient descends KL(p, p_ref), or p_ref / p_old - 1
    for KL(p_ref, p): [N, T]. On the student's own tokens; rewards have no part in it.

    "On-Policy Distillation of Language Models" by Agarwal et al. (https://arxiv.org/abs/2306.13649), whose divergences
    are sums over the vocabulary; these are their estimates by the sampled token, with expectation 0 where both agree.

    Args:
        divergence: `reverse` keeps to what the teacher likes most, `forward` to all that it would say.
        limit: largest size of A. Too low lets tokens that the teacher never says weigh as little as others; too high
            lets one of them rule the update.
    """
    gap = torch.where(mask, logp_ref - logp_old, 0.0)
    return (gap if divergence == "reverse" else gap.exp() - 1).clamp(-limit, limit)


def returns(token_reward: Tensor, mask: Tensor, *, gamma: Fraction = 1.0) -> Tensor:
    """Discounted reward from each token on: [N, T]. Tokens off the mask are stepped over. "REINFORCE++" by Hu
    (https://arxiv.org/abs/2501.03262), with gamma 1.

    Args:
        gamma: discount per token. Below 1 early tokens of long responses get little of the reward.
    """
    return _backwards(token_reward, mask, torch.full_like(token_reward[:, 0], gamma))


def token_optimal(
    token_reward: Tensor, group: Tensor, mask: Tensor, logp_old: Tensor, sum_p2: Tensor, *, eps: Epsilon = 1e-8
) -> Tensor:
    """Return from each token on, minus the group's baseline of least variance at that place: [N, T].

    B_t = sum_i G_it W_it / sum_i W_it with W_t = sum over tokens up to t of (1 - 2 p + sum_k p_k^2), the squared norm
    of the score function; where only one response of the group is still going, B is 0. As in verl's
    `compute_optimal_token_baseline_advantage`.

    Args:
        eps: added to the denominator, against a division by 0.
    """
    going = (token_reward * mask).flip(1).cumsum(1).flip(1)
    squared_norm = (1 - 2 * logp_old.exp() + sum_p2) * mask
    weight = squared_norm.cumsum(1) * mask
    top, bottom = (_group_sum_rows(x, group) for x in (going * weight, weight))
    alone = _group_sum_rows(mask.to(weight.dtype), group) <= 1
    return (going - torch.where(alone, 0.0, top / (bottom + eps))) * mask


def gae(
    token_reward: Tensor,
    values: Tensor,
    mask: Tensor,
    *,
    gamma: Fraction = 1.0,
    lambda_policy: Fraction = 0.95,
    length_adaptive: NonNegative = 0.0,
) -> Tensor:
    """Generalized advantage estimate: [N, T].

    A_t = delta_t + gamma lambda A_t+, delta_t = r_t + gamma V_t+ - V_t, t+ the next masked token: "High-Dimensional
    Continuous Control Using Generalized Advantage Estimation" by Schulman et al. (https://arxiv.org/abs/1506.02438),
    equation 16. With `length_adaptive` alpha > 0: lambda = 1 - 1 / (alpha n), at least 0, n the tokens of the response;
    "VAPO" by Yue et al. (https://arxiv.org/abs/2504.05118).

    Args:
        gamma: discount per token. Below 1 early tokens of long responses get little of the reward.
        lambda_policy: 0 trusts the values alone, which are biased; 1 trusts the rewards alone, which are noisy.
        length_adaptive: alpha of the lambda that grows with length; 0: `lambda_policy` at every length.
    """
    lambda_ = torch.full_like(values[:, 0], lambda_policy)
    if length_adaptive > 0:
        lambda_ = adaptive_lambda(mask, length_adaptive).to(values.dtype)
    following = _following(values, mask)
    delta = token_reward + gamma * following - values
    return _backwards(delta, mask, gamma * lambda_)


def adaptive_lambda(mask: Tensor, alpha: float) -> Tensor:
    """1 - 1 / max(alpha n, 1) for the n masked tokens of each response: [N]. Yue et al."""
    return 1 - 1 / (alpha * mask.sum(1).double()).clamp_min(1.0)


def value_targets(
    token_reward: Tensor, values: Tensor, mask: Tensor, *, gamma: Fraction = 1.0, lambda_value: Fraction = 1.0
) -> Tensor:
    """Targets of a critic: generalized advantage with its own lambda, plus the value: [N, T]. Yue et al.
    (https://arxiv.org/abs/2504.05118): lambda 1 keeps the bias of the values out of their own targets."""
    return gae(token_reward, values, mask, gamma=gamma, lambda_policy=lambda_value) + values * mask


def unscaled(advantage: Tensor) -> Tensor:
    """A as it is: [N, T]. "Understanding R1-Zero-Like Training" by Liu et al. (https://arxiv.org/abs/2503.20783)."""
    return advantage


def group_std(advantage: Tensor, reward: Tensor, group: Tensor, *, eps: Epsilon = 1e-6) -> Tensor:
    """A / (standard deviation of the group's rewards + eps): [N, T]. Shao et al. (https://arxiv.org/abs/2402.03300).

    Args:
        eps: added to the deviation, in units of reward. Too low blows up groups whose rewards hardly differ.
    """
    count = selection.group_size(group)
    centred = group_mean(reward, group)
    variance = selection.group_sum(centred.square(), group) / (count - 1).clamp_min(1)
    return advantage / (variance.sqrt() + eps)[:, None]


def leave_one_out_std(advantage: Tensor, reward: Tensor, group: Tensor, *, eps: Epsilon = 1e-6) -> Tensor:
    """A / (standard deviation of the other rewards of the group + eps), unscaled where that is 0: [N, T]. As in
    NeMo-RL's `calculate_baseline_and_std_per_prompt`.

    Args:
        eps: added to the deviation, in units of reward. Too low blows up groups whose rewards hardly differ.
    """
    count = selection.group_size(group)
    centred = (reward - selection.group_sum(reward, group) / count).double()
    # sums over the others, about the mean of all: the own deviation is taken out of both
    squares = selection.group_sum(centred.square(), group) - centred.square()
    variance = (squares - centred.square() / (count - 1).clamp_min(1)) / (count - 2).clamp_min(1)
    varies = selection.max_of_others(reward, group) > -selection.max_of_others(-reward, group)
    std = torch.where(varies, variance.clamp_min(0.0).sqrt() + eps, 1.0).to(advantage.dtype)
    return advantage / std[:, None]


def whiten(
    advantage: Tensor, mask: Tensor, *, eps: Epsilon = 1e-8, unbiased: bool = True, centre: bool = True
) -> Tensor:
    """(A - mean) / sqrt(variance + eps) over all masked tokens of the batch: [N, T]. Hu
    (https://arxiv.org/abs/2501.03262). Long responses weigh more in the statistics.

    Args:
        eps: added to the variance, against a division by 0.
        unbiased: divide by one less than the number of tokens.
        centre: leave the mean at 0; otherwise the mean of the batch is added again.
    """
    wide = advantage.double()
    count = mask.sum()
    mean = (wide * mask).sum() / count.clamp_min(1)
    variance = ((wide - mean).square() * mask).sum() / (count - int(unbiased)).clamp_min(1)
    white = (wide - mean) * torch.rsqrt(variance + eps)
    return (white if centre else white + mean).to(advantage.dtype) * mask


def signs(advantage: Tensor, *, positive: NonNegative = 1.0, negative: NonNegative = 1.0) -> Tensor:
    """A times `positive` where A > 0, times `negative` where A < 0: [N, T]. Zhu et al.
    (https://arxiv.org/abs/2506.01347), with `positive` 0.1.

    Args:
        positive: factor on positive advantages. Too low hardly learns from what was right; too high loses entropy.
        negative: factor on negative advantages. Too high makes the policy less sure of everything.
    """
    return torch.where(advantage > 0, advantage * positive, advantage * negative)


def nonzero_share(advantage: Tensor, reward: Tensor, mask: Tensor) -> Tensor:
    """A times the number of responses / those whose reward is not 0: [N, T]. "GPG" by Chu et al.
    (https://arxiv.org/abs/2504.02546), as in verl's `compute_gpg_outcome_advantage`."""
    counted = mask.any(1)
    # Python's division: that of two counts as tensors would be in float32
    return advantage * (int(counted.sum()) / max(int((counted & (reward != 0)).sum()), 1))


def _zero_if_equal(advantage: Tensor, reward: Tensor, group: Tensor) -> Tensor:
    return torch.where(selection.group_varies(reward, group), advantage, 0.0)


def _group_sum_rows(value: Tensor, group: Tensor) -> Tensor:
    """Sum of `value` [N, T] over the responses of the group, at each place: [N, T]."""
    _, place = torch.unique(group, return_inverse=True)
    sums = value.new_zeros(int(place.max()) + 1, value.shape[1]).index_add_(0, place, value)
    return sums[place]


def _following(values: Tensor, mask: Tensor) -> Tensor:
    """`values` at the next masked token, 0 after the last: [N, T]."""
    after = torch.zeros_like(values)
    carry = torch.zeros_like(values[:, 0])
    for t in reversed(range(values.shape[1])):
        after[:, t] = carry
        carry = torch.where(mask[:, t], values[:, t], carry)
    return after


def _backwards(value: Tensor, mask: Tensor, decay: Tensor) -> Tensor:
    """x_t = value_t + decay x_t+ over masked tokens, the sum carried through the others, 0 off the mask: [N, T]."""
    out = torch.zeros_like(value)
    carry = torch.zeros_like(value[:, 0])
    for t in reversed(range(value.shape[1])):
        carry = torch.where(mask[:, t], value[:, t] + decay * carry, carry)
        out[:, t] = carry
    return out * mask


def outcome_rewards(reward: Tensor, penalty: Tensor, mask: Tensor) -> Tensor:
    """Token penalties, plus the reward at the last masked token: [N, T]."""
    steps = torch.arange(mask.shape[1], device=mask.device)
    last = (steps * mask).amax(1)
    at_last = (steps == last[:, None]) & mask
    return penalty * mask + at_last * reward[:, None]
