"""Log-probabilities, entropies and moments of targets, by fused kernels on a GPU and by their plain twins elsewhere.

K targets, V vocabulary. Every pass that has no rules for the kernels' loss takes its numbers from here, with gradient
or without.
"""

from collections.abc import Callable

from torch import Tensor

from isentrope.kernels import fused, plain


def by_kernel(logits: Tensor, targets: Tensor) -> bool:
    """Return True if kernels compute these; a rank without work predicts nothing, and none is called."""
    return logits.is_cuda and len(targets) > 0


def logp_entropy(logits: Tensor, targets: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Return log-probabilities of the targets [K] and entropies [K], differentiable in the logits [K, V], which the
    gradient may replace."""
    if by_kernel(logits, targets):
        return fused.logp_entropy(logits, targets, temperature)
    return plain.logp_entropy(logits, targets, temperature)


def moments_at(temperature: float) -> Callable[[Tensor, Tensor], plain.Moments]:
    """Return the function from logits and targets to their statistics at a temperature, without gradient."""

    def moments(logits: Tensor, targets: Tensor) -> plain.Moments:
        if by_kernel(logits, targets):
            return fused.moments(logits, targets, temperature)
        return plain.moments(logits, targets, temperature)

    return moments


def logp_at(temperature: float) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the function from logits and targets to log-probabilities at a temperature."""
    return lambda logits, targets: logp_entropy(logits, targets, temperature)[0]
