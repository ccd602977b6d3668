"""The loss of a value function.

Shapes: values (with gradient), values_old, returns [N, T].
"""

from typing import Literal

import torch
from torch import Tensor

from isentrope.learner.objective.schema import Count, Fraction, NonNegative, Positive


def none() -> None:
    """No critic."""


def clipped(
    values: Tensor,
    values_old: Tensor,
    returns: Tensor,
    *,
    clip: Positive | None = 0.2,
    loss: Literal["squared", "huber"] = "squared",
    delta: Positive = 10.0,
    coef: NonNegative = 1.0,
    warmup_batches: Count | Literal[0] = 0,
    lambda_value: Fraction = 1.0,
) -> Tensor:
    """coef max(l(V, R), l(clip(V, V_old - clip, V_old + clip), R)): [N, T], l(v, r) = (v - r)^2 / 2 or Huber's.

    Schulman et al. (https://arxiv.org/abs/1707.06347) and their implementation. `lambda_value` is for the targets R
    (see `advantage.value_targets`); for `warmup_batches` only the critic is trained (Yue et al.,
    https://arxiv.org/abs/2504.05118).

    Args:
        clip: largest change of a value, in units of reward; unset: none. Too low learns values slowly.
        loss: which l.
        delta: distance from which Huber's loss is linear, in units of reward.
        coef: weight of the term.
        warmup_batches: batches in which only the critic is trained.
        lambda_value: lambda of the targets: 1 are the rewards themselves, less mixes in the values.
    """
    value = _distance(values, returns, loss, delta)
    if clip is not None:
        near = values_old + (values - values_old).clamp(-clip, clip)
        value = torch.maximum(value, _distance(near, returns, loss, delta))
    return coef * value


def _distance(values: Tensor, returns: Tensor, loss: str, delta: float) -> Tensor:
    difference = (values - returns).abs()
    squared = difference.square() / 2
    if loss == "squared":
        return squared
    return torch.where(difference < delta, squared, delta * (difference - delta / 2))
