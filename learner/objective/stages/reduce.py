"""Reductions: the weight of a token's loss, one number per response because a reduction is linear. Denominators are
global.

They are computed from the masks of one whole update (all its micro-batches on all ranks); weights, selections and
corrections never change a denominator. Shapes: mask [N, T] bool; group [N] int64. Every reduction returns the factor of
a response's tokens: [N], so that the loss is the sum over responses of factor * sum over masked tokens. A response
without masked tokens counts nowhere.
"""

import torch
from torch import Tensor

from isentrope.learner.objective import selection
from isentrope.learner.objective.schema import Count


def token_mean(mask: Tensor) -> Tensor:
    """1 / (all tokens): [N]. Yu et al. (https://arxiv.org/abs/2503.14476), as in their code."""
    return torch.ones(len(mask), dtype=torch.float64, device=mask.device) / mask.sum().clamp_min(1)


def group_token_mean(mask: Tensor, group: Tensor) -> Tensor:
    """1 / (groups * tokens of the group): [N]. Yu et al. (https://arxiv.org/abs/2503.14476), equation 8 as printed."""
    tokens = selection.group_sum(mask.sum(1).double(), group)
    counted = tokens > 0
    groups = len(torch.unique(group[counted]))
    return torch.where(counted, 1 / (max(groups, 1) * tokens.clamp_min(1)), 0.0)


def seq_token_mean(mask: Tensor) -> Tensor:
    """1 / (responses * tokens of the response): [N]. Shao et al. (https://arxiv.org/abs/2402.03300), equation 3."""
    tokens = mask.sum(1).double()
    return torch.where(tokens > 0, 1 / (_responses(mask) * tokens.clamp_min(1)), 0.0)


def seq_sum(mask: Tensor) -> Tensor:
    """1 / responses: [N], the gradient of the expected reward without a length normalisation."""
    return torch.ones(len(mask), dtype=torch.float64, device=mask.device) / _responses(mask)


def seq_sum_constant(mask: Tensor, *, constant: Count) -> Tensor:
    """1 / (responses * constant): [N]. Liu et al. (https://arxiv.org/abs/2503.20783); the constant, their
    generation budget, only rescales the learning rate.

    Args:
        constant: tokens that every response counts as; `"max_new_tokens"` stands for the limit of sampling.
    """
    return seq_sum(mask) / constant


def sum_constant(mask: Tensor, *, constant: Count) -> Tensor:
    """1 / constant: [N], whatever the number of responses. LUFFY's released script, with the padded length.

    Args:
        constant: tokens that the whole update counts as; `"max_new_tokens"` stands for the limit of sampling. Too low
            makes steps large.
    """
    return torch.full((len(mask),), 1 / constant, dtype=torch.float64, device=mask.device)


def _responses(mask: Tensor) -> Tensor:
    return mask.any(1).sum().clamp_min(1)
