"""Log-probabilities, entropies and moments of targets, by fused kernels on a GPU and by their plain twins elsewhere.

K targets, V vocabulary, W tokens of the largest sampling mask. Every pass that has no rules for the kernels' loss takes
its numbers from here, with gradient or without. Log-probabilities are those among the tokens `kept` [K, W] that the
engine had to choose from, if they are given; all else is of the whole distribution.
"""

from collections.abc import Callable

from torch import Tensor

from isentrope.kernels import fused, plain
from isentrope.kernels.sampling_mask import renormalised


def by_kernel(logits: Tensor, targets: Tensor) -> bool:
    """Return True if kernels compute these; a rank without work predicts nothing, and none is called."""
    return logits.is_cuda and len(targets) > 0


def logp_entropy(
    logits: Tensor, targets: Tensor, temperature: float, kept: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return log-probabilities of the targets [K] and entropies [K], differentiable in the logits [K, V], which the
    gradient may replace."""
    if by_kernel(logits, targets):
        logp, entropy = fused.logp_entropy(logits, targets, temperature)
    else:
        logp, entropy = plain.logp_entropy(logits, targets, temperature)
    return renormalised(logp, logits, targets, kept, temperature), entropy


def moments_at(temperature: float, kept: Tensor | None = None) -> Callable[[Tensor, Tensor], plain.Moments]:
    """Return the function from logits and targets to their statistics at a temperature, without gradient."""

    def moments(logits: Tensor, targets: Tensor) -> plain.Moments:
        if by_kernel(logits, targets):
            found = fused.moments(logits, targets, temperature)
        else:
            found = plain.moments(logits, targets, temperature)
        return found._replace(logp=renormalised(found.logp, logits, targets, kept, temperature))

    return moments


def logp_at(temperature: float, kept: Tensor | None = None) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the function from logits and targets to log-probabilities at a temperature."""
    return lambda logits, targets: logp_entropy(logits, targets, temperature, kept)[0]
