"""Factors on the advantage of whole groups. No gradient.

Shapes: answer, group [N] int64; logp_old [N, T]; mask [N, T] bool. A stage returns a factor per response: [N].
"""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from isentrope.learner.objective import selection
from isentrope.learner.objective.schema import Positive

Alpha = Annotated[float, Field(ge=0, le=1)]


def semantic_entropy(
    answer: Tensor,
    group: Tensor,
    logp_old: Tensor,
    mask: Tensor,
    *,
    estimate: Literal["count", "length_normalised", "sequence"] = "count",
    shape: Literal["linear", "exponential", "reciprocal", "focal"] = "linear",
    alpha: Alpha = 0.5,
    power: Positive = 2.0,
) -> Tensor:
    """f(alpha SE / log G), 1 for a group that agrees on its answer and less the more it does not: [N].

    SE is the entropy of the group's answers: by counting them, or from their probabilities summed over the responses
    with the same answer (see `answer_entropy`). f(x) = 1 - x, exp(-x), 1 / (1 + x) or (1 - x)^power. "SEED-GRPO" by
    Chen et al. (https://arxiv.org/abs/2505.12346); the count is our choice, because sums of sequence probabilities are
    dominated by length and not bounded by log G. It looks at answers and not at rewards: graded ones change nothing.

    Args:
        estimate: answers are counted, or weighed by the mean or the sum of the log-probabilities of their responses.
        shape: which f: how the factor falls with disagreement.
        alpha: scale of the disagreement. 0 does nothing; with 1 and `linear` a group of all different answers,
            often that of the hardest prompts, counts nothing.
        power: exponent of `focal`. The higher, the less a group counts that disagrees.
    """
    entropy = answer_entropy(answer, group, logp_old, mask, estimate=estimate)
    largest = selection.group_size(group).to(entropy.dtype).log()
    x = alpha * torch.where(largest > 0, entropy / largest, 0.0)
    match shape:
        case "linear":
            return 1 - x
        case "exponential":
            return (-x).exp()
        case "reciprocal":
            return 1 / (1 + x)
        case "focal":
            return (1 - x).clamp_min(0.0) ** power


def answer_entropy(
    answer: Tensor,
    group: Tensor,
    logp_old: Tensor,
    mask: Tensor,
    *,
    estimate: Literal["count", "length_normalised", "sequence"] = "count",
) -> Tensor:
    """Entropy of the answers within each response's group: [N], nats.

    -sum_k q_k log q_k over the K different answers, q_k the share of responses with that answer ("count"), or the share
    of probability, each response weighing exp(mean log p of its tokens) or exp(sum of them). An answer -1 equals no
    other.
    """
    places = torch.arange(len(answer), device=answer.device)
    distinct = torch.where(answer < 0, -1 - places, answer)
    _, cluster = torch.unique(torch.stack([group, distinct]), dim=1, return_inverse=True)
    log_weight = torch.zeros_like(logp_old[:, 0], dtype=torch.float64)
    if estimate != "count":
        log_weight = (logp_old * mask).sum(1).double()
    if estimate == "length_normalised":
        log_weight = log_weight / mask.sum(1).clamp_min(1)
    of_group = selection.group_logsumexp(log_weight, group)
    log_share = selection.group_logsumexp(log_weight, cluster) - of_group
    # each response carries its own part of its answer's q log q
    part = (log_weight - of_group).exp() * log_share
    return -selection.group_sum(part, group).to(logp_old.dtype)
