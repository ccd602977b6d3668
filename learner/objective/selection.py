"""Selection of a batch's tokens by a score: exact, deterministic, the same on every rank.

Responses are in the order of (seq, index), so that a choice does not depend on the order in which they arrived: equal
scores are cut by place, the earlier token first.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from isentrope.learner.objective.batch import Batch


def kept_rows(batch: Batch, filters: Sequence[Callable[[Mapping[str, Any]], Tensor]]) -> Tensor:
    """Return the rows that no filter removes: [N] bool. Filters see responses alone, and a demonstration stays where a
    response to its prompt does."""
    sampled = batch.sampled
    seen = batch if sampled.all() else batch.take(sampled.nonzero()[:, 0])
    verdict = torch.ones_like(seen.truncated)
    for stage in filters:
        verdict = verdict & stage(seen.named())
    kept = torch.zeros_like(sampled).masked_scatter(sampled, verdict)
    return kept | ~sampled & torch.isin(batch.group, batch.group[kept])


def top(score: Tensor, mask: Tensor, count: int) -> Tensor:
    """Return the `count` masked tokens with the largest score (all, if there are fewer): [N, T] bool.

    score, mask: [N, T]. A score that is not a number counts as the smallest.
    """
    at = mask.flatten().nonzero()[:, 0]
    values = torch.nan_to_num(score.flatten()[at], nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)
    chosen = at[torch.sort(values, descending=True, stable=True).indices[:count]]
    selected = torch.zeros_like(mask).flatten()
    selected[chosen] = True
    return selected.view_as(mask)


def quantile(score: Tensor, mask: Tensor, share: float) -> Tensor:
    """Return the `share` quantile of any number of masked scores, interpolated between the two nearest."""
    values = torch.sort(score[mask]).values
    place = share * (len(values) - 1)
    below = int(place)
    above = min(below + 1, len(values) - 1)
    return torch.lerp(values[below], values[above], place - below)


def mean(value: Tensor, mask: Tensor) -> Tensor:
    """Return the mean over the masked tokens, summed in float64; 0 if there are none."""
    total = value.double().masked_fill(~mask, 0.0).sum()
    return (total / mask.sum().clamp_min(1)).to(value.dtype)


def covariance(logp: Tensor, advantage: Tensor, mask: Tensor) -> Tensor:
    """Return each token's part of the covariance of log-probability and advantage: [N, T], 0 off the mask.

    (A - mean A) (log p - mean log p), both means over the masked tokens: "The Entropy Mechanism of Reinforcement
    Learning for Reasoning Language Models" by Cui et al. (https://arxiv.org/abs/2505.22617).
    """
    product = (advantage - mean(advantage, mask)) * (logp.detach() - mean(logp.detach(), mask))
    return product.masked_fill(~mask, 0.0)


def group_sum(value: Tensor, group: Tensor) -> Tensor:
    """Return the sum of `value` [N] over the group of each response: [N]."""
    _, place = torch.unique(group, return_inverse=True)
    sums = torch.zeros(int(place.max()) + 1, dtype=torch.float64, device=value.device)
    return sums.index_add_(0, place, value.double()).to(value.dtype)[place]


def group_size(group: Tensor) -> Tensor:
    """Return the number of responses in the group of each: [N] int64."""
    _, place, count = torch.unique(group, return_inverse=True, return_counts=True)
    size: Tensor = count[place]
    return size


def group_max(value: Tensor, group: Tensor) -> Tensor:
    """Return the largest `value` [N] in the group of each response: [N]."""
    _, place = torch.unique(group, return_inverse=True)
    largest = value.new_full((int(place.max()) + 1,), -torch.inf)
    return largest.scatter_reduce_(0, place, value, "amax")[place]


def group_varies(value: Tensor, group: Tensor) -> Tensor:
    """Return True where `value` [N] differs within the group of the response: [N] bool.

    Compares the largest with the smallest: a variance of equal values that are not dyadic is not exactly 0.
    """
    wide = value.double()
    return group_max(wide, group) > -group_max(-wide, group)


def max_of_others(value: Tensor, group: Tensor) -> Tensor:
    """Return the largest `value` [N] among the other responses of the group: [N], -inf for a response that is alone."""
    largest = group_max(value, group)
    at_top = value == largest
    only = at_top & (group_sum(at_top.to(value.dtype), group) == 1)
    second = group_max(value.masked_fill(at_top, -torch.inf), group)
    return torch.where(only, second, largest)


def group_rank(value: Tensor, group: Tensor) -> Tensor:
    """Count the responses of the group with a smaller `value` [N], or the same and an earlier place: [N] int64."""
    order = torch.argsort(value, stable=True)
    order = order[torch.argsort(group[order], stable=True)]
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order), device=order.device)
    return place + group_max(-place.double(), group).long()


def group_logsumexp(value: Tensor, group: Tensor) -> Tensor:
    """Return log sum exp of `value` [N] over the group of each response: [N]."""
    largest = group_max(value, group)
    return largest + group_sum((value - largest).exp(), group).log()


def placed(value: Tensor, rows: Tensor, blank: Tensor) -> Tensor:
    """Return `value` [n, T] at responses `rows` of a blank [N, T]."""
    out = blank.clone()
    out[rows] = value.to(blank.dtype)
    return out
