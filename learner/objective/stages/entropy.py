"""The entropy bonus. Knows the current entropies of some responses: [N, T], nats."""

from typing import Literal

from torch import Tensor

from isentrope.learner.objective.schema import Finite


def bonus(entropy: Tensor, *, coef: Finite = 0.0, tokens: Literal["all", "selected"] = "all") -> Tensor:
    """-coef H: [N, T], a loss. `tokens` "selected" leaves out the tokens whose weight in the policy term is 0.

    "Asynchronous Methods for Deep Reinforcement Learning" by Mnih et al. (https://arxiv.org/abs/1602.01783).
    """
    return -coef * entropy
