"""The critic: a language model with one number for each token instead of logits, in a DeepSpeed engine of its own.

It stands beside the policy's, is of the same ZeRO stage, and computes and trains on the same micro-batches.

The value of a token is read where its logits are: before it is sampled. K targets, n responses, T tokens.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from isentrope.learner.config import LearnerConfig
from isentrope.learner.intake.packing import Packed
from isentrope.learner.objective import critic_terms
from isentrope.learner.objective.batch import LossParts, Prepared
from isentrope.learner.objective.objective import ControllerStates, Objective
from isentrope.learner.training.deepspeed_engine import TrainingEngine
from isentrope.learner.training.model import Policy, Result


class ValueModel(Policy):
    """The model without its output layer, and a linear layer that gives values, 0 at first."""

    def __init__(self, policy: Policy) -> None:
        """Take over the network of a language model."""
        # An output layer of the language would get no gradient, and take memory for it all the same.
        body: Any = policy.network.base_model
        super().__init__(body)
        width = int(self.network.config.get_text_config().hidden_size)
        self.value = nn.Linear(width, 1, bias=False, dtype=self.dtype)
        nn.init.zeros_(self.value.weight)

    def forward(self, packed: Packed, use: Callable[[Tensor, Tensor], Result]) -> Result:
        """Return `use(values [K], targets [K])`, as the policy does with logits."""
        return use(self.value(self._hidden(packed)).squeeze(-1).float(), packed.target)

    def check_head(self, device: torch.device) -> None:
        """Require nothing: the layer is its own."""


class CriticEngine(TrainingEngine):
    """The critic and its optimizer. All methods are collective."""

    def __init__(
        self, policy: Policy, config: LearnerConfig, device: torch.device, *, loads_universal: bool = False
    ) -> None:
        """Take over the network of a language model, which is whole and on the CPU; the rest as the policy's engine."""
        rate = config.critic.learning_rate or config.learning_rate
        own = config.model_copy(update={"learning_rate": rate})
        super().__init__(ValueModel(policy), 1.0, own, device, loads_universal=loads_universal)

    @torch.no_grad()
    def values(self, packed: Packed) -> Tensor:
        """Return the values of the responses' tokens, without gradient: [n, T], on the CPU, 0 off the responses."""
        values: Tensor = self._engine(packed, _values)
        return packed.to_padded(values).cpu()


class ValueLoss:
    """The critic's loss of one update, a function of any of its micro-batches."""

    def __init__(self, objective: Objective, prepared: Prepared, update: int, state: ControllerStates) -> None:
        """Prepare; `state`: of the controllers, before the update."""
        self._stage = objective.controlled(state).critic
        self._prepared = prepared
        self._update = update

    def __call__(self, packed: Packed, temperature: float, values: Tensor, targets: Tensor) -> tuple[Tensor, LossParts]:
        """Return the loss and its monitors."""
        padded = packed.to_padded(values).cpu()
        parts = critic_terms.loss(self._stage, self._prepared, self._update, packed.rows, padded)
        return parts.loss.to(values.device), parts


def _values(values: Tensor, targets: Tensor) -> Tensor:
    return values
