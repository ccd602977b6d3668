"""Masks of whole responses in the policy term; denominators stay. No gradient.

Shapes: logp, logp_old, logp_rollout, advantage [N, T]; mask [N, T] bool. Every stage returns [N, T] bool: True where
the policy term counts. A stage that reads the current `logp` is evaluated again in every update. Log-probabilities are
in nats.
"""

from torch import Tensor

from isentrope.learner.objective.schema import Finite, Positive


def sequence_divergence(
    logp: Tensor, logp_rollout: Tensor, advantage: Tensor, mask: Tensor, *, threshold: Finite = 0.1
) -> Tensor:
    """Drops responses with a negative advantage that the policy has moved away from: [N, T].

    False iff A < 0 and mean_t (log p_rollout - log p) > threshold; the mean is signed, and against the engine that
    sampled. "DeepSeek-V3.2" (https://arxiv.org/abs/2512.02556), off-policy sequence masking; the threshold is
    unpublished.

    Args:
        threshold: nats per token. Too low drops most responses with a negative advantage; too high drops none.
    """
    drift = ((logp_rollout - logp.detach()) * mask).sum(1) / mask.sum(1).clamp_min(1)
    return ~((advantage < 0) & (drift > threshold)[:, None])


def geometric_mask(
    logp_old: Tensor, logp_rollout: Tensor, mask: Tensor, *, low: Positive = 0.999, high: Positive = 1.002
) -> Tensor:
    """Keeps responses with low <= exp(mean_t (log p_old - log p_rollout)) <= high: [N, T].

    NeMo-RL's `seq-mask-tis`, as in ProRL v2.1; unlike a product of ratios it does not depend on the length.

    Args:
        low: least mean ratio of a response. The nearer to 1, the more responses are dropped.
        high: largest mean ratio of a response. The nearer to 1, the more responses are dropped.
    """
    mean = ((logp_old - logp_rollout) * mask).sum(1) / mask.sum(1).clamp_min(1)
    kept = (mean.exp() >= low) & (mean.exp() <= high)
    return kept[:, None].expand_as(mask)
