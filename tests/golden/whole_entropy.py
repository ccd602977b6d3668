"""Whole losses of methods that steer entropy: by covariance, by token, by a controller. Each cites its source.

Statistics of tokens are of the policy before the batch and over the whole batch, as the presets say.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from whole_batches import Loss, Paper
from whole_terms import (
    agreement,
    centred,
    clipped,
    covariance,
    everyone,
    k3,
    largest,
    per_group,
    quantile,
    ratio,
    share_of,
    standardized,
    token_mean,
    total,
    trained,
    varied,
)


def clip_cov(paper: Paper, share: float = 2e-4, low: float = 1.0) -> Loss:
    """Clip-Cov (2505.22617), equation 12 and its code: tokens drawn from 1 < covariance < 5 have no loss; clip 1, 1."""
    kept = varied(paper)
    m = trained(paper, kept)
    a = per_group(paper, kept, standardized)
    score = covariance(paper, a, m)
    candidates = ((score > low) & (score < 5.0)).nonzero().tolist()
    candidates.sort(key=lambda at: float(paper.chance[at[0], at[1]]))
    free = torch.ones_like(paper.old)
    for i, t in candidates[: share_of(m, share)]:
        free[i, t] = 0.0
    return lambda rows, p, _: token_mean(free * clipped(ratio(p, paper.old), a[:, None], 1.0, 1.0), m, rows)


def kl_cov(paper: Paper, share: float = 2e-4) -> Loss:
    """KL-Cov (2505.22617), equation 13 and its code: -A r, and |log r| on the tokens of largest covariance."""
    kept = varied(paper)
    m = trained(paper, kept)
    a = per_group(paper, kept, standardized)
    held = largest(covariance(paper, a, m), share_of(m, share))
    return lambda rows, p, _: token_mean(-a[:, None] * ratio(p, paper.old) + (p - paper.old).abs() * held, m, rows)


def sent(paper: Paper, share: float = 2e-4) -> Loss:
    """SENT (2512.04359), its text: |log r| on the four fifths of least entropy, twice at the top of their covariance,
    half at the bottom; 1e-3 k3 to the reference; no clip."""
    m = paper.mask
    a = per_group(paper, everyone(paper), standardized)
    low = m & (paper.entropy <= quantile(paper.entropy[m], 0.8))
    score = covariance(paper, a, low)
    weight = low.double()
    weight[largest((-score).masked_fill(~low, -math.inf), share_of(low, share))] = 0.5
    weight[largest(score, share_of(low, share))] = 2.0
    return lambda rows, p, _: token_mean(
        -a[:, None] * ratio(p, paper.old) + weight * (p - paper.old).abs() + 1e-3 * k3(p, paper.ref), m, rows
    )


def top_entropy(paper: Paper) -> Loss:
    """Beyond the 80/20 rule (2506.01939), equation 5: the tokens above the 80 % quantile; denominator all tokens."""
    a = per_group(paper, everyone(paper), standardized)[:, None]
    forks = paper.entropy >= quantile(paper.entropy[paper.mask], 0.8)
    return lambda rows, p, _: token_mean(forks * clipped(ratio(p, paper.old), a, 0.2, 0.2), paper.mask, rows)


def starter(paper: Paper) -> Loss:
    """The survey's starter: +0.1 and -1 (2506.01347), the fifth of highest entropy (2506.01939), clip 0.2, 0.28."""
    a = (1.1 * paper.correct.double() - 1.0)[:, None]
    forks = paper.entropy >= quantile(paper.entropy[paper.mask], 0.8)
    return lambda rows, p, _: token_mean(forks * clipped(ratio(p, paper.old), a, 0.2, 0.28), paper.mask, rows)


def steer(paper: Paper) -> Loss:
    """STEER (2510.10150), its code: exp(|Omega| ln 0.8 / max(largest |Omega|, 0.02)) times the clipped loss,
    Omega = A / p_old p (1 - p)(log p + H), here of the policy before the batch."""
    a = per_group(paper, everyone(paper), standardized)[:, None]
    p0 = paper.old.exp().clamp(1e-8, 1 - 1e-8)
    omega = (a / p0 * p0 * (1 - p0) * (p0.log() + paper.entropy)).abs()
    top = max(float(omega[paper.mask].max()), 0.02)
    weight = (omega / top * math.log(0.8)).exp().clamp(0.8, 1.0)
    return lambda rows, p, _: token_mean(
        weight * clipped(ratio(p, paper.old), a, 0.2, 0.28, dual=10.0), paper.mask, rows
    )


def clip_b(paper: Paper, deviations: float = 2.5) -> Loss:
    """Clip_B (2602.03392), its code: negative tokens with S < mean - 2.5 deviations have no loss, S = p (log p + H);
    the denominator stays all tokens."""
    a = per_group(paper, everyone(paper), standardized)[:, None]
    s = paper.old.exp() * (paper.entropy + paper.old)
    values = s[paper.mask]
    free = ~((a < 0) & (s - values.mean() < -deviations * values.std(unbiased=False)))
    return lambda rows, p, _: token_mean(free * clipped(ratio(p, paper.old), a, 0.2, 0.2), paper.mask, rows)


def clip_v(paper: Paper, deviations: float = 8.5, share: float = 1e-4) -> Loss:
    """Clip_V (2602.03392), its code: negative tokens with N - S > 8.5 deviations have no loss, the worst of them up to
    max(1, floor(1e-4 tokens)); S = p (log p + H), N = H sum p^2 + sum p^2 log p; the denominator stays all tokens."""
    a = per_group(paper, everyone(paper), standardized)[:, None]
    d = paper.entropy * paper.squares + paper.squares_logp - paper.old.exp() * (paper.entropy + paper.old)
    worst = paper.mask & (a < 0) & (d > deviations * d[paper.mask].std(unbiased=False))
    dropped = largest(d.masked_fill(~worst, -math.inf), share_of(paper.mask, share))
    return lambda rows, p, _: token_mean(~dropped * clipped(ratio(p, paper.old), a, 0.2, 0.2), paper.mask, rows)


def entrocraft(
    paper: Paper, low: tuple[float, float] = (0.6, 0.4), high: tuple[float, float] = (0.7, 0.5), share: float = 0.25
) -> Loss:
    """Entrocraft (2604.26326), its code `grpo_range_linear`: rewards 1 and -1; RAFT++ above the upper bound, NSR below
    the lower one, GRPO between; 1e-3 k3 to the reference. share: of the way from the first bounds to the last."""
    signed = torch.where(paper.correct, 1.0, -1.0).double()
    h = float(paper.entropy[paper.mask].mean())
    if h > high[0] + (high[1] - high[0]) * share:
        a = signed.clamp_min(0.0)
    elif h < low[0] + (low[1] - low[0]) * share:
        a = signed.clamp_max(0.0)
    else:
        a = per_group(paper, everyone(paper), standardized, signed)
    return lambda rows, p, _: token_mean(
        clipped(ratio(p, paper.old), a[:, None], 0.2, 0.2) + 1e-3 * k3(p, paper.ref), paper.mask, rows
    )


def seed_grpo(paper: Paper) -> Loss:
    """SEED-GRPO (2505.12346): (r - mean)(1 - SE / (2 log G)), answers counted; PPO's clip."""
    a = (per_group(paper, everyone(paper), centred) * agreement(paper, 0.5))[:, None]
    return lambda rows, p, _: token_mean(clipped(ratio(p, paper.old), a, 0.2, 0.2), paper.mask, rows)


def skywork(paper: Paper, share: float = 0.5) -> Loss:
    """Skywork-OR1 (2505.22312), section 4 and `EntController`: a bonus that acts while entropy is below its target."""
    kept = varied(paper)
    m = trained(paper, kept)
    a = per_group(paper, kept, standardized)[:, None]
    coefficient, on, target = 0.0, 1.0, math.nan

    def loss(rows: Tensor, p: Tensor, h: Tensor) -> Tensor:
        nonlocal coefficient, on, target
        value = token_mean(clipped(ratio(p, paper.old), a, 0.2, 0.2) - coefficient * on * h, m, rows)
        if m[rows].any():
            sampled = -float(paper.old[rows][m[rows]].mean())
            target = share * sampled if math.isnan(target) else target
            coefficient = min(max(coefficient + (1e-4 if sampled < target else -1e-4), 0.0), 0.005)
            on = float(sampled < target)
        return value

    return loss


def positive_weight(paper: Paper, share: float = 0.5) -> Loss:
    """Revisiting entropy (2511.05993): positive advantages weigh lambda, 0.05 down below the target, else up."""
    a = per_group(paper, everyone(paper), standardized)[:, None]
    weight, target = 1.0, math.nan

    def loss(rows: Tensor, p: Tensor, h: Tensor) -> Tensor:
        nonlocal weight, target
        omega = 1.0 + (weight - 1.0) * (a > 0).double()
        value = token_mean(omega * clipped(ratio(p, paper.old), a, 0.2, 0.28), paper.mask, rows)
        if paper.mask[rows].any():
            measured = float(h.detach()[rows][paper.mask[rows]].mean())
            target = share * measured if math.isnan(target) else target
            weight = min(max(weight - 0.05 if measured < target else weight + 0.05, 0.0), 1.0)
        return value

    return loss


def proportional_integral(share: float = 0.5) -> Callable[[float], float]:
    """EntroPIC (2511.15248), its code: clip(e + 0.01 S, -1, 1), e = H - target, S the sum of the errors before; the
    target is a share of the first H."""
    errors: list[float] = []
    target = math.nan

    def step(entropy: float) -> float:
        nonlocal target
        target = share * entropy if math.isnan(target) else target
        error = entropy - target
        value = error + min(max(0.01 * sum(errors), -1.0), 1.0)
        errors.append(error)
        return min(max(value, -1.0), 1.0)

    return step


def entropic(paper: Paper) -> Loss:
    """EntroPIC (2511.15248): the clipped loss and -alpha r |A| on p > 0.95, alpha from the update before."""
    a = per_group(paper, everyone(paper), standardized)[:, None]
    return _pushed(paper, paper.mask, a, lambda p: clipped(ratio(p, paper.old), a, 0.2, 0.2))


def pi_bonus(paper: Paper, share: float = 0.85) -> Loss:
    """Ours: GRPO with a bonus -c H, c = clip(0.05 e + 0.001 S, 0, 0.05), e = share of the first H, less H; S the sum of
    the errors before, without those that push c on at a bound, within +-50."""
    a = per_group(paper, everyone(paper), standardized)[:, None]
    c, total_error, target = 0.0, 0.0, math.nan

    def loss(rows: Tensor, p: Tensor, h: Tensor) -> Tensor:
        nonlocal c, total_error, target
        value = token_mean(clipped(ratio(p, paper.old), a, 0.2, 0.2) - c * h, paper.mask, rows)
        if paper.mask[rows].any():
            measured = float(h.detach()[rows][paper.mask[rows]].mean())
            target = share * measured if math.isnan(target) else target
            wanted = 0.05 * (target - measured) + 0.001 * total_error
            c = min(max(wanted, 0.0), 0.05)
            if not (wanted < 0.0 and measured > target) and not (wanted > 0.05 and measured < target):
                total_error = min(max(total_error + target - measured, -50.0), 50.0)
        return value

    return loss


def advanced(paper: Paper) -> Loss:
    """The survey's advanced configuration: KL-Cov, EntroPIC's push, and SEED-GRPO's weight of prompts."""
    kept = varied(paper)
    m = trained(paper, kept)
    a = per_group(paper, kept, centred) * agreement(paper, 0.5)
    held = largest(covariance(paper, a, m), share_of(m, 2e-4))
    wide = a[:, None]
    return _pushed(paper, m, wide, lambda p: -wide * ratio(p, paper.old) + (p - paper.old).abs() * held)


def _pushed(paper: Paper, m: Tensor, a: Tensor, base: Callable[[Tensor], Tensor]) -> Loss:
    controller, alpha = proportional_integral(), 0.0

    def loss(rows: Tensor, p: Tensor, h: Tensor) -> Tensor:
        nonlocal alpha
        likely = p.detach().exp() > 0.95
        push = -ratio(p, paper.old) * a.abs() * likely
        value = token_mean(base(p), m, rows) + alpha * total(push, m, rows) / max(int(m[rows].sum()), 1)
        if m[rows].any():
            alpha = controller(float(h.detach()[rows][m[rows]].mean()))
        return value

    return loss
