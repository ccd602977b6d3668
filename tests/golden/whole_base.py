"""Whole losses of methods that differ in baseline, surrogate or mean. Each cites what it is written from.

A is the advantage of a response, r the ratio to the policy before the batch, p the probability of a token.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from whole_batches import LONGEST, PART_WEIGHTS, Loss, Paper, Reference
from whole_terms import (
    centred,
    clipped,
    everyone,
    k3,
    mixed,
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


def grpo(paper: Paper) -> Loss:
    """DeepSeekMath (2402.03300), equations 3 and 4.1.2, without its divergence."""
    a = per_group(paper, everyone(paper), standardized)[:, None]
    return lambda rows, p, _: response_mean(clipped(ratio(p, paper.old), a, 0.2, 0.2), paper.mask, rows)


def gdpo(paper: Paper) -> Loss:
    """GDPO (2601.05242), equations 4 to 6, as TRL has it (`normalize_then_sum`): each reward in the deviations of its
    group, the weighted sum of those that there are in the deviations of the batch, 1e-4 below both lines."""
    total = torch.zeros_like(paper.reward)
    for k, weight in enumerate(PART_WEIGHTS):
        for number in paper.group.unique():
            here = [i for i in (paper.group == number).nonzero()[:, 0].tolist() if not paper.parts[i, k].isnan()]
            r = paper.parts[here, k]
            if len(here) > 1 and float(r.max()) > float(r.min()):
                total[here] += weight * (r - r.mean()) / (r.std(unbiased=True) + 1e-4)
    s = total[paper.mask.any(1)]
    a = ((total - s.mean()) / (s.std(unbiased=True) + 1e-4))[:, None]
    return lambda rows, p, _: response_mean(clipped(ratio(p, paper.old), a, 0.2, 0.2), paper.mask, rows)


def dapo(paper: Paper) -> Loss:
    """DAPO (2503.14476), equations 8, 11 and 13: clip-higher, mixed groups, soft punishment of the last fifth."""
    kept = mixed(paper)
    cache = 0.2 * LONGEST
    excess = (LONGEST - cache - paper.length.double()) / cache
    punished = torch.where(paper.correct, 1.0, -1.0).double() + excess.clamp(-1.0, 0.0)
    a = per_group(paper, kept, standardized, punished)[:, None]
    m = trained(paper, kept)
    return lambda rows, p, _: token_mean(clipped(ratio(p, paper.old), a, 0.2, 0.28), m, rows)


def dr_grpo(paper: Paper) -> Loss:
    """Dr. GRPO (2503.20783): no deviation, and the generation budget instead of the length."""
    a = per_group(paper, everyone(paper), centred)[:, None]
    return lambda rows, p, _: (
        total(clipped(ratio(p, paper.old), a, 0.2, 0.2), paper.mask, rows) / (responses(paper.mask, rows) * LONGEST)
    )


def luffy(paper: Paper) -> Loss:
    """LUFFY (2504.14945), equations 5 to 7 with its script's constants: the union of responses and demonstrations has
    one mean as baseline and no deviation; demonstrations count -A f(p), f(x) = x / (x + 0.1), with a behaviour policy
    of 1; all rows over the budget; a bonus of 1e-3 on the entropy of what was sampled."""
    a = per_group(paper, everyone(paper), centred)[:, None]
    sampled = paper.mask & ~paper.shown

    def loss(rows: Tensor, p: Tensor, entropy: Tensor) -> Tensor:
        off = total(-a * p.exp() / (p.exp() + 0.1), paper.mask & paper.shown, rows)
        on = total(-a * ratio(p, paper.old) - 1e-3 * entropy, sampled, rows)
        return (on + off) / (responses(paper.mask, rows) * LONGEST)

    return loss


def rloo(paper: Paper) -> Loss:
    """RLOO (2402.14740): the mean of the others as baseline; PPO's clip and token mean are the product's defaults."""
    a = per_group(paper, everyone(paper), lambda r: r - (r.sum() - r) / (len(r) - 1))[:, None]
    return _clipped_mean(paper, a)


def remax(paper: Paper) -> Loss:
    """ReMax (2310.10505), equation 6: the reward minus that of the greedy response; -A log p, the token mean."""
    a = (paper.reward - paper.greedy)[:, None]
    return lambda rows, p, _: token_mean(-a * p, paper.mask, rows)


def opd(paper: Paper, forward: bool = False) -> Loss:
    """On-policy distillation (2306.13649) by the sampled token: grad KL(p, q) = E[log(p / q) grad log p], grad KL(q, p)
    = E[(1 - q / p) grad log p], q the teacher, each factor at most 20 in size; PPO's clip."""
    q = paper.ref - paper.old
    a = (q.exp() - 1 if forward else q).clamp(-20.0, 20.0)
    return lambda rows, p, _: token_mean(clipped(ratio(p, paper.old), a, 0.2, 0.2), paper.mask, rows)


def bcpg_nsa(paper: Paper) -> Loss:
    """BCPG-NSA (2505.14403): A log p, half of it on correct steps of wrong responses of mixed groups, and 1e-3 / 2 (log
    ratio of the whole response to the behaviour policy, here the reference) squared; both over length and responses."""
    kept = varied(paper)
    m = trained(paper, kept)
    a = per_group(paper, kept, centred)[:, None]
    weight = torch.where(paper.good_step & ~paper.correct[:, None], 0.5, 1.0)

    def loss(rows: Tensor, p: Tensor, _: Tensor) -> Tensor:
        x = torch.where(m, (p - paper.ref).clamp(-20.0, 20.0), 0.0).sum(1, keepdim=True)
        return response_mean(-a * weight * p, m, rows) + 1e-3 * response_mean(
            0.5 * (x**2 / m.sum(1, keepdim=True).clamp_min(1)).expand_as(p), m, rows
        )

    return loss


def maxrl(paper: Paper) -> Loss:
    """MaxRL (2602.02710): (r - mean) / mean, 1e-6 below the line; PPO's clip and token mean by default."""
    a = per_group(paper, everyone(paper), lambda r: (r - r.mean()) / (r.mean() + 1e-6))[:, None]
    return _clipped_mean(paper, a)


def pass_at_k(paper: Paper) -> Loss:
    """Tang et al. (2503.19595): the best response gets its distance to the second best."""

    def distance(r: Tensor) -> Tensor:
        best, second = r.topk(2).values
        return torch.where(r == best, best - second, 0.0)

    return _clipped_mean(paper, per_group(paper, everyone(paper), distance)[:, None])


def opo(paper: Paper) -> Loss:
    """OPO (2505.23585), equation 9: the mean reward weighted by length, of the trained tokens."""
    length = paper.mask.sum(1).double()
    a = torch.zeros_like(paper.reward)
    for number in paper.group.unique():
        here = paper.group == number
        if bool(paper.reward[here].max() > paper.reward[here].min()) and length[here].sum() > 0:
            a[here] = paper.reward[here] - (length * paper.reward)[here].sum() / length[here].sum()
    return _clipped_mean(paper, a[:, None])


def reinforce_pp(paper: Paper) -> Loss:
    """REINFORCE++ (2501.03262): the return of each token, whitened over the batch, without a reference."""
    return _clipped_mean(paper, whitened(paper.reward[:, None], paper.mask))


def gpg(paper: Paper) -> Loss:
    """GPG (2504.02546), equation 7: A scaled by responses over those with a reward; -A log p."""
    counted = paper.mask.any(1)
    scale = int(counted.sum()) / max(1, int((counted & (paper.reward != 0)).sum()))
    a = (scale * per_group(paper, everyone(paper), centred))[:, None]
    return lambda rows, p, _: token_mean(-a * p, paper.mask, rows)


def gspo(paper: Paper) -> Loss:
    """GSPO (2507.18071), equations 5 and 7, differentiated through the mean; the dual clip is the preset's."""
    return _of_responses(paper, lambda a, i, s: clipped(s, a[i], 3e-4, 4e-4, dual=3.0))


def luspo(paper: Paper) -> Loss:
    """LUSPO (2602.05261), as TRL has it (`loss_type="luspo"`): GSPO's loss of a response times its length."""
    return _of_responses(paper, lambda a, i, s: int(paper.mask[i].sum()) * clipped(s, a[i], 2e-3, 2.5e-3, dual=3.0))


def _of_responses(paper: Paper, loss_of: Callable[[Tensor, int, Tensor], Tensor]) -> Loss:
    """The mean over responses of `loss_of` advantages, a response, and its ratio: the geometric mean of its tokens'."""
    a = per_group(paper, everyone(paper), standardized)

    def loss(rows: Tensor, p: Tensor, _: Tensor) -> Tensor:
        ratios = {i: (p[i] - paper.old[i])[paper.mask[i]].mean().exp() for i in rows.tolist() if paper.mask[i].any()}
        each = [loss_of(a, i, s) for i, s in ratios.items()]
        return torch.stack(each).mean() if each else p.sum() * 0.0

    return loss


def ce_gppo(paper: Paper) -> Loss:
    """CE-GPPO (2509.20712), the three cases of its loss and its dual clip, on the groups that its recipe keeps."""
    kept = mixed(paper)
    a = per_group(paper, kept, standardized)[:, None].expand_as(paper.old)
    m = trained(paper, kept)

    def loss(rows: Tensor, p: Tensor, _: Tensor) -> Tensor:
        r = ratio(p, paper.old)
        objective = r * a
        low, high = (r < 0.8) & (a < 0), (r > 1.2) & (a > 0)
        objective = torch.where(low, 0.75 * 0.8 / r.detach() * r * a, objective)
        objective = torch.where(high, 1.2 / r.detach() * r * a, objective)
        objective = torch.where(a < 0, torch.maximum(objective, 10.0 * a), objective)
        return token_mean(-objective, m, rows)

    return loss


def cispo(paper: Paper) -> Loss:
    """CISPO (2506.13585), equation 4: -sg[min(r, 5)] A log p; no lower bound."""
    a = per_group(paper, everyone(paper), standardized)[:, None]
    return lambda rows, p, _: token_mean(-ratio(p, paper.old).detach().clamp(0.0, 5.0) * a * p, paper.mask, rows)


def sapo(paper: Paper) -> Loss:
    """SAPO (2511.20347), equation 5: 4 / tau sigmoid(tau (r - 1)) A, tau 1 or 1.05 by the sign of A."""
    a = per_group(paper, everyone(paper), standardized)[:, None]
    tau = 1.0 + 0.05 * (a <= 0).double()
    return lambda rows, p, _: response_mean(
        -4 / tau / (1 + (-tau * (ratio(p, paper.old) - 1)).exp()) * a, paper.mask, rows
    )


def gmpo(paper: Paper) -> Loss:
    """GMPO (2507.20673), equation 4: the geometric mean of ratios, each clipped to e^-0.4..e^0.4 against A."""
    a = per_group(paper, everyone(paper), standardized)

    def loss(rows: Tensor, p: Tensor, _: Tensor) -> Tensor:
        each = []
        for i in rows.tolist():
            if paper.mask[i].any():
                x = (p[i] - paper.old[i])[paper.mask[i]].clamp(-20.0, 20.0)
                x = x.clamp_max(0.4) if a[i] > 0 else x.clamp_min(-0.4)
                each.append(-a[i] * x.mean().exp())
        return torch.stack(each).mean() if each else p.sum() * 0.0

    return loss


def dppo(paper: Paper) -> Loss:
    """DPPO (2602.04879), binary total variation, against the policy that sampled: p moves by 0.2 at most."""
    a = per_group(paper, everyone(paper), standardized)[:, None]

    def loss(rows: Tensor, p: Tensor, _: Tensor) -> Tensor:
        moved = (p.exp() - paper.rollout.exp()).detach()
        inside = torch.where(a > 0, moved <= 0.2, moved >= -0.2)
        return token_mean(-a * ratio(p, paper.rollout).detach().clamp_max(20.0) * p * inside, paper.mask, rows)

    return loss


def signed(right: float | None, wrong: float | None) -> Reference:
    """PSR, NSR, W-REINFORCE (2506.01347), equations 3 to 6: a constant advantage by correctness; None: left out."""

    def made(paper: Paper) -> Loss:
        sides = torch.zeros_like(paper.correct)
        a = torch.zeros_like(paper.reward)
        for side, value in ((paper.correct, right), (~paper.correct, wrong)):
            if value is not None:
                sides |= side
                a[side] = value
        m = trained(paper, sides)
        return lambda rows, p, _: token_mean(clipped(ratio(p, paper.old), a[:, None], 0.2, 0.2), m, rows)

    return made


def unlikely(paper: Paper) -> Loss:
    """Rewarding the Unlikely (2506.02355), its code: R (1 - 0.25 rank / G), rank 0 the least likely by the mean of
    log p_old; standardized; 0.1 k3 to the reference."""
    shaped = paper.reward.clone()
    likelihood = [float(paper.old[i][paper.valid[i]].mean()) for i in range(len(shaped))]
    for number in paper.group.unique():
        here = (paper.group == number).nonzero()[:, 0].tolist()
        for rank, i in enumerate(sorted(here, key=lambda i: likelihood[i])):
            shaped[i] = paper.reward[i] * (1 - 0.25 * rank / len(here))
    a = per_group(paper, everyone(paper), standardized, shaped)[:, None]
    return lambda rows, p, _: token_mean(
        clipped(ratio(p, paper.old), a, 0.2, 0.2) + 0.1 * k3(p, paper.ref), paper.mask, rows
    )


def _clipped_mean(paper: Paper, a: Tensor) -> Loss:
    return lambda rows, p, _: token_mean(clipped(ratio(p, paper.old), a, 0.2, 0.2), paper.mask, rows)
