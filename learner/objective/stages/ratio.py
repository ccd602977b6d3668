"""Probability ratios between the current policy and an anchor, as differentiable logarithms.

Log-probabilities are in nats. Shapes: logp, logp_old, logp_rollout, logp_anchor [N, T]; lag [N, T] int64; mask [N, T]
bool. An anchor returns the log-probabilities to compare with; a level returns log ratios [N, T], clamped so that their
exponential is finite.
"""

from torch import Tensor

from isentrope.kernels.limits import LOG_RATIO_CLAMP
from isentrope.learner.objective.schema import Positive


def old(logp_old: Tensor) -> Tensor:
    """The learner before the first update of the batch: [N, T]. "Proximal Policy Optimization Algorithms" by Schulman
    et al. (https://arxiv.org/abs/1707.06347)."""
    return logp_old


def rollout(logp_rollout: Tensor) -> Tensor:
    """The engine that sampled: [N, T]. The ratio then also corrects for staleness and engine mismatch."""
    return logp_rollout


def interpolated(logp: Tensor, logp_rollout: Tensor, lag: Tensor) -> Tensor:
    """The policy one batch back, between the one that sampled and the current: [N, T], no gradient.

    log p_rollout + alpha (log p - log p_rollout), alpha = (lag - 1) / lag: the proximal policy of "AReaL" by Fu et al.
    (https://arxiv.org/abs/2505.24298), without a forward pass of its own (AReaL's `loglinear`).
    """
    alpha = ((lag - 1) / lag.clamp_min(1)).clamp_min(0.0).to(logp.dtype)
    return logp_rollout + alpha * (logp.detach() - logp_rollout)


def token(logp: Tensor, logp_anchor: Tensor, *, clamp: Positive = LOG_RATIO_CLAMP) -> Tensor:
    """log p - log p_anchor of each token: [N, T]. Schulman et al. (https://arxiv.org/abs/1707.06347), equation 6.

    Args:
        clamp: bound of the log ratio, in nats; against overflow only, far beyond any clip.
    """
    return (logp - logp_anchor).clamp(-clamp, clamp)


def sequence(logp: Tensor, logp_anchor: Tensor, mask: Tensor, *, clamp: Positive = LOG_RATIO_CLAMP) -> Tensor:
    """Mean log ratio of the response, at each of its tokens, with the gradient of that token: [N, T].

    sg[mean_t (log p - log p_anchor)] + log p - sg[log p]: "Group Sequence Policy Optimization" by Zheng et al.
    (https://arxiv.org/abs/2507.18071), equation 14. With a constant advantage its gradient is that of the sequence
    ratio. The clamp acts on the mean.

    Args:
        clamp: bound of the mean log ratio, in nats; against overflow only, far beyond any clip.
    """
    total = ((logp - logp_anchor).detach() * mask).sum(1)
    mean = (total / mask.sum(1).clamp_min(1)).clamp(-clamp, clamp)
    return mean[:, None] + logp - logp.detach()


def none(logp: Tensor) -> Tensor:
    """0 with the gradient of log p: [N, T]. As if the data came from the current policy."""
    return logp - logp.detach()
