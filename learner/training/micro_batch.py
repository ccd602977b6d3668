"""From the logits of a micro-batch to its part of the loss.

On a CPU, plain PyTorch gives log-probabilities and entropies, from which the objective makes the loss. On a GPU a
fused kernel gives them; for an objective that has rules for the kernels, one call gives the loss and its gradient as
well, and the objective only measures. Knows neither the network nor the optimizer. K targets, n responses, T tokens of
the longest, V vocabulary.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from isentrope.kernels import fused, plain
from isentrope.kernels.call import Options, TokenInputs
from isentrope.learner.intake.packing import Packed
from isentrope.learner.objective.batch import LossParts
from isentrope.learner.objective.kernel_rules import FusedInputs

Surrogate = Callable[[Tensor, Tensor], LossParts]
"""(logp [n, T], entropy [n, T]) -> their part of the loss; both on the CPU, as everything an objective sees."""


@dataclass(frozen=True, slots=True)
class Micro:
    """A micro-batch and what becomes of its log-probabilities. fused: None for an objective without rules."""

    packed: Packed
    surrogate: Surrogate
    fused: FusedInputs | None = None


def loss_of(micro: Micro, temperature: float, logits: Tensor, targets: Tensor) -> tuple[Tensor, LossParts]:
    """Loss with gradient, and what there is to report: logits [K, V], which the gradient may replace; targets [K]."""
    if not logits.is_cuda or not len(targets):  # a rank without work predicts nothing
        return _by_surrogate(micro, *plain.logp_entropy(logits, targets, temperature))
    if micro.fused is None:
        return _by_surrogate(micro, *fused.logp_entropy(logits, targets, temperature))
    return by_kernel(micro, micro.fused, temperature, logits, targets)


def by_kernel(
    micro: Micro, given: FusedInputs, temperature: float, logits: Tensor, targets: Tensor
) -> tuple[Tensor, LossParts]:
    """`loss_of` in one call. The surrogate sees the same statistics; its own loss and gradient are not used."""
    packed, device = micro.packed, logits.device

    def placed(values: Tensor) -> Tensor:
        return packed.to_packed(values.to(device))

    tokens = TokenInputs(
        mask=placed(given.mask),
        weight=placed(given.weight),
        selected=None if given.selected is None else placed(given.selected),
    )
    found = fused.fused_policy_loss(
        logits,
        targets,
        placed(given.advantage),
        placed(given.logp_old),
        given.rules,
        tokens=tokens,
        options=Options(normalizer=given.normalizer, temperature=temperature),
    )
    logp, entropy = packed.to_padded(found.logp).cpu(), packed.to_padded(found.entropy).cpu()
    return found.loss, micro.surrogate(logp.requires_grad_(), entropy)  # which tokens are clipped shows in the gradient


def _by_surrogate(micro: Micro, logp: Tensor, entropy: Tensor) -> tuple[Tensor, LossParts]:
    part = micro.surrogate(micro.packed.to_padded(logp).cpu(), micro.packed.to_padded(entropy).cpu())
    return part.loss.to(logp.device), part
