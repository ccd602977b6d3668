"""Whole losses of methods against stale samples, engine mismatch, and drift from a reference. Each cites its source.

w is the ratio of the policy before the batch to the policy that sampled.
"""

import math
from itertools import accumulate

import torch
from torch import Tensor
from whole_batches import Loss, Paper
from whole_terms import (
    centred,
    clipped,
    everyone,
    k2,
    k3,
    per_group,
    ratio,
    response_mean,
    responses,
    standardized,
    token_mean,
    total,
    trained,
    varied,
    whitened,
)


def tis(paper: Paper) -> Loss:
    """Truncated importance sampling (Yao et al., 2025): min(w, 2) times the clipped loss."""
    return _weighted(paper, ratio(paper.old, paper.rollout).clamp_max(2.0))


def vespo(paper: Paper) -> Loss:
    """VESPO (2602.10693), its code `compute_policy_loss_vespo`: -phi(W) A log p, phi(W) = W^k e^(lambda (1 - W)), W the
    ratio of the response to the policy that sampled; k, lambda 2, 3 for A >= 0 and 3, 2 for A < 0."""
    a = per_group(paper, everyone(paper), standardized)

    def loss(rows: Tensor, p: Tensor, _: Tensor) -> Tensor:
        phi = torch.zeros_like(a)
        for i in rows.tolist():
            log_w = float((p[i] - paper.rollout[i]).detach()[paper.mask[i]].clamp(-20.0, 20.0).sum())
            log_w = min(max(log_w, math.log(1e-8)), 20.0)
            k, rate = (2.0, 3.0) if a[i] >= 0 else (3.0, 2.0)
            phi[i] = math.exp(k * log_w + rate * (1 - math.exp(log_w)))
        return token_mean(-(phi * a)[:, None] * p, paper.mask, rows)

    return loss


def icepop(paper: Paper) -> Loss:
    """IcePop (2510.18855), equation 6: w where it is within [0.5, 5], else 0."""
    return _weighted(paper, _band(paper))


def decoupled(paper: Paper) -> Loss:
    """AReaL (2505.24298), equation 5, and its cap: w times the clipped loss, 0 where w > 5."""
    w = ratio(paper.old, paper.rollout)
    return _weighted(paper, torch.where(w > 5.0, 0.0, w))


def m2po(paper: Paper, threshold: float = 0.04) -> Loss:
    """M2PO (2510.01161), its objective and algorithm 1: -M A p / p_rollout without a clip; M drops the tokens of the
    largest (log w)^2 until the mean of the others is below the threshold."""
    square = (paper.old - paper.rollout) ** 2
    order = sorted(paper.mask.nonzero().tolist(), key=lambda at: float(square[at[0], at[1]]))
    left = list(accumulate(float(square[i, t]) for i, t in order))
    while len(order) > 1 and left[len(order) - 1] / len(order) >= threshold:
        order.pop()
    chosen = torch.zeros_like(paper.old)
    for i, t in order:
        chosen[i, t] = 1.0
    a = per_group(paper, everyone(paper), standardized)[:, None]
    return lambda rows, p, _: token_mean(-chosen * ratio(p, paper.rollout) * a, paper.mask, rows)


def minirl(paper: Paper) -> Loss:
    """MiniRL (2512.01374), equations 7 and 8: masked by PPO's clip, sg[min(p / p_rollout, 5)] A log p, summed."""
    a = per_group(paper, everyone(paper), centred)[:, None]

    def loss(rows: Tensor, p: Tensor, _: Tensor) -> Tensor:
        r = ratio(p, paper.old).detach()
        cut = ((a > 0) & (r > 1.27)) | ((a < 0) & (r < 0.8))
        q = ratio(p, paper.rollout).detach().clamp_max(5.0)
        return total(~cut * -q * a * p, paper.mask, rows) / responses(paper.mask, rows)

    return loss


def deepseek_v32(paper: Paper) -> Loss:
    """DeepSeek-V3.2 (2512.02556), section 3.1: mean per response; wrong responses that drifted by more than 0.1 nats a
    token are masked; 1e-3 of the unbiased k3, inside the mean."""
    a = per_group(paper, everyone(paper), centred)[:, None]

    def loss(rows: Tensor, p: Tensor, _: Tensor) -> Tensor:
        drift = torch.where(paper.mask, paper.rollout - p.detach(), 0.0).sum(1) / paper.mask.sum(1).clamp_min(1)
        stays = ~((a[:, 0] < 0) & (drift > 0.1))[:, None]
        policy = stays * clipped(ratio(p, paper.old), a, 0.2, 0.2)
        return response_mean(policy + 1e-3 * ratio(p, paper.old) * k3(p, paper.ref), paper.mask, rows)

    return loss


def prorl(paper: Paper) -> Loss:
    """ProRL (2505.24864), section 3: clip 0.2, 0.4, mixed groups, a divergence to the reference, here unbiased k3."""
    kept = varied(paper)
    m = trained(paper, kept)
    a = per_group(paper, kept, standardized)[:, None]
    return lambda rows, p, _: token_mean(
        clipped(ratio(p, paper.old), a, 0.2, 0.4) + 1e-4 * ratio(p, paper.old) * k3(p, paper.ref), m, rows
    )


def prorl_v2(paper: Paper) -> Loss:
    """ProRL v2, NeMo-RL's recipe: REINFORCE++ with group means, IcePop, clip 0.2, 0.27, 1e-4 k2."""
    kept = varied(paper)
    m = trained(paper, kept)
    a = whitened(per_group(paper, kept, centred)[:, None], m)
    return lambda rows, p, _: token_mean(
        _band(paper) * clipped(ratio(p, paper.old), a, 0.2, 0.27) + 1e-4 * k2(p, paper.ref), m, rows
    )


def _band(paper: Paper) -> Tensor:
    w = ratio(paper.old, paper.rollout)
    return torch.where((w < 0.5) | (w > 5.0), 0.0, w)


def _weighted(paper: Paper, weight: Tensor) -> Loss:
    a = per_group(paper, everyone(paper), standardized)[:, None]
    return lambda rows, p, _: token_mean(weight * clipped(ratio(p, paper.old), a, 0.2, 0.2), paper.mask, rows)
