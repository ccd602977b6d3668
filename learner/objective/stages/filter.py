"""Filters: the responses that are trained on at all.

A filtered response leaves the batch: it takes part in no baseline, no statistic and no denominator. Filters judge what
the reward functions gave, never the shaped reward: where one answer is punished for its length, a group would differ.

Shapes: reward [N]; correct, truncated [N] bool; group [N] int64. Every filter returns the responses it keeps: [N] bool.
"""

from typing import Literal

from torch import Tensor

from isentrope.learner.objective import selection
from isentrope.learner.objective.schema import Whole


def mixed_groups(
    reward: Tensor,
    group: Tensor,
    correct: Tensor | None = None,
    *,
    by: Literal["reward", "correct"] = "reward",
    refill: Whole = 0,
) -> Tensor:
    """Keeps groups whose responses differ in their reward: the others have no group advantage.

    "DAPO: An Open-Source LLM Reinforcement Learning System at Scale" by Yu et al. (https://arxiv.org/abs/2503.14476),
    equation 11, asks for 0 < number of correct responses < G: the same for rewards 0 and 1. With `refill`, the intake
    draws other groups for them before there is a batch, up to that many batches' worth (10 in the authors' code), so
    that this filter finds nothing; with 0 the batch gets smaller.

    Args:
        by: what must differ in a group: the reward, or whether a response is correct. `correct` belongs to a reward
            stage that pays for correctness alone, and throws graded rewards away.
        refill: how many batches' worth of groups may be drawn again for one batch; 0: the batch gets smaller. Too high
            spends generation on prompts whose responses all fare alike.
    """
    if by == "reward":
        return selection.group_varies(reward, group)
    assert correct is not None, "it is one of the needs then"
    return selection.group_varies(correct, group)


def correct_only(correct: Tensor) -> Tensor:
    """Keeps correct responses: positive sample reinforcement, "The Surprising Effectiveness of Negative Reinforcement
    in LLM Reasoning" by Zhu et al. (https://arxiv.org/abs/2506.01347)."""
    return correct


def incorrect_only(correct: Tensor) -> Tensor:
    """Keeps incorrect responses: negative sample reinforcement, Zhu et al. (https://arxiv.org/abs/2506.01347)."""
    return ~correct


def not_truncated(truncated: Tensor) -> Tensor:
    """Drops responses cut by the length limit: overlong filtering, Yu et al. (https://arxiv.org/abs/2503.14476)."""
    return ~truncated
