"""Estimators of a divergence between the current policy and an anchor, per token and differentiable.

x = log p - log p_anchor, [N, T], is clamped to +-20 before it gets here; mask
[N, T] bool. Every estimator returns [N, T]. "Approximating KL Divergence" by Schulman
(http://joschu.net/blog/kl-approx.html) names k1, k2, k3; as losses only k2 and the importance-weighted forms have the
gradient of the reverse KL.
"""

from torch import Tensor

from isentrope.kernels.limits import LOG_RATIO_CLAMP
from isentrope.learner.objective.schema import Positive

Clamp = Positive | None


def k1(x: Tensor) -> Tensor:
    """x; gradient 1, whose expectation is 0: a value, not a loss."""
    return x


def absolute(x: Tensor) -> Tensor:
    """|x|; gradient sign(x). Cui et al. (https://arxiv.org/abs/2505.22617)."""
    return x.abs()


def k2(x: Tensor) -> Tensor:
    """x^2 / 2; gradient x."""
    return x.square() / 2


def k3(x: Tensor, *, output_clamp: Clamp = None) -> Tensor:
    """exp(-x) - 1 + x; gradient 1 - exp(-x), on policy that of the forward KL. Shao et al.
    (https://arxiv.org/abs/2402.03300), equation 4.

    An `output_clamp` takes the gradient from the tokens that drifted most; other code bases have 10.

    Args:
        output_clamp: largest estimate, in nats; unset: none. Too low lets go of the tokens that drifted most.
    """
    value = (-x).exp() - 1 + x
    return value if output_clamp is None else value.clamp(-output_clamp, output_clamp)


def sequence_k2(x: Tensor, mask: Tensor) -> Tensor:
    """(sum over the response of x)^2 / (2 n) at each of its n tokens, so that their sum is half the squared log ratio
    of the response. "Unearthing Gems from Stones" by Yang et al. (https://arxiv.org/abs/2505.14403)."""
    total = (x * mask).sum(1, keepdim=True)
    return (total.square() / (2 * mask.sum(1, keepdim=True).clamp_min(1))).expand_as(x)


def with_k2_gradient(value: Tensor, x: Tensor) -> Tensor:
    """The value of an estimator with the gradient of `k2`: [N, T]; verl's "+" forms."""
    straight_through = k2(x)
    return value.detach() + straight_through - straight_through.detach()


def importance_weighted(value: Tensor, logp: Tensor, logp_sampled: Tensor) -> Tensor:
    """q times an estimate, q = p / p_sampled with its gradient: [N, T].

    With `k3` and the policy that sampled, the gradient is q x: that of the reverse KL, without bias and finite for
    every x. "DeepSeek-V3.2" (https://arxiv.org/abs/2512.02556). With logp_sampled = sg[logp], q is 1 and the gradient
    that of on-policy samples.
    """
    return value * (logp - logp_sampled).clamp(-LOG_RATIO_CLAMP, LOG_RATIO_CLAMP).exp()
