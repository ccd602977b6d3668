"""The entropy bonus, from the current entropies of some responses: [N, T], nats."""

from typing import Literal

from torch import Tensor

from isentrope.learner.objective.schema import Finite


def bonus(entropy: Tensor, *, coef: Finite = 0.0, tokens: Literal["all", "selected"] = "all") -> Tensor:
    """-coef H: [N, T], a loss. `tokens` "selected" leaves out the tokens whose weight in the policy term is 0.

    "Asynchronous Methods for Deep Reinforcement Learning" by Mnih et al. (https://arxiv.org/abs/1602.01783).

    Args:
        coef: gain that a nat of entropy counts as. Too high makes the policy write noise; below 0 lowers entropy.
        tokens: which tokens it is for.
    """
    return -coef * entropy
