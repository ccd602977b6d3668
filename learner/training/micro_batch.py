"""From the logits of a micro-batch to its part of an update's loss.

On a CPU, plain PyTorch gives log-probabilities and entropies, from which the objective makes the loss. On a GPU a
fused kernel gives them; for an objective that has rules for the kernels, one call gives the loss and its gradient as
well, and the objective only measures. Not so for tokens that were chosen among some of the vocabulary. K targets, n
responses, T tokens of the longest, V vocabulary.
"""

from collections.abc import Callable
from dataclasses import replace

from torch import Tensor

from isentrope.kernels import fused
from isentrope.kernels.policy import LossRules
from isentrope.learner.intake.packing import Packed
from isentrope.learner.objective.batch import LossParts, Prepared
from isentrope.learner.objective.kernel_rules import token_inputs
from isentrope.learner.objective.objective import ControllerStates, Objective
from isentrope.learner.training.token_statistics import by_kernel, logp_entropy

Loss = Callable[[Packed, float, Tensor, Tensor], tuple[Tensor, LossParts]]
"""(micro-batch, temperature, logits [K, V], targets [K]) -> loss with gradient, and its monitors."""


class UpdateLoss:
    """The loss of one update, a function of any of its micro-batches."""

    def __init__(
        self,
        objective: Objective,
        rules: LossRules | None,
        prepared: Prepared,
        update: int,
        state: ControllerStates,
    ) -> None:
        """Prepare; `rules`: the kernels' rules of the objective, None: none; `state`: of the controllers, before it."""
        self._objective = objective
        self._rules = rules
        self._prepared = prepared
        self._update = update
        self._state = state

    def __call__(self, packed: Packed, temperature: float, logits: Tensor, targets: Tensor) -> tuple[Tensor, LossParts]:
        """Return the loss and its monitors; the gradient may replace the logits."""
        if self._rules is None or packed.kept is not None or not by_kernel(logits, targets):
            return self._of_statistics(packed, *logp_entropy(logits, targets, temperature, packed.kept))
        return self.by_kernel(packed, self._rules, temperature, logits, targets)

    def by_kernel(
        self, packed: Packed, rules: LossRules, temperature: float, logits: Tensor, targets: Tensor
    ) -> tuple[Tensor, LossParts]:
        """Return the same by one call. The objective gets the same statistics; its own loss is not used."""
        device = logits.device
        tokens = token_inputs(self._objective, self._prepared, self._update, packed.rows)
        normalizer = tokens.normalizer.to(device)
        tokens = tokens.changed(lambda values: packed.to_packed(values.to(device)))
        tokens = replace(tokens, normalizer=normalizer, temperature=temperature)
        found = fused.fused_policy_loss(logits, targets, tokens, rules)
        logp, entropy = packed.to_padded(found.logp).cpu(), packed.to_padded(found.entropy).cpu()
        logp.requires_grad_()  # which tokens are clipped shows in the gradient
        return found.loss, self._parts(packed, logp, entropy)

    def _of_statistics(self, packed: Packed, logp: Tensor, entropy: Tensor) -> tuple[Tensor, LossParts]:
        parts = self._parts(packed, packed.to_padded(logp).cpu(), packed.to_padded(entropy).cpu())
        return parts.loss.to(logp.device), parts

    def _parts(self, packed: Packed, logp: Tensor, entropy: Tensor) -> LossParts:
        """Return the objective's own part for these statistics [n, T]; both on the CPU."""
        return self._objective.token_loss(self._prepared, self._update, packed.rows, logp, entropy, self._state)
