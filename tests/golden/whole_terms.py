"""Parts that several papers share, in their own notation: baselines, surrogates, divergences, means.

Nothing of the product is used here: each function is the formula of the paper that it names.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from whole_batches import Paper

Credit = Callable[[Tensor], Tensor]


def per_group(paper: Paper, kept: Tensor, credit: Credit, reward: Tensor | None = None) -> Tensor:
    """Advantages [N] of the kept responses, each group by itself; 0 where all rewards of a group are equal."""
    reward = paper.reward if reward is None else reward
    out = torch.zeros_like(reward)
    for number in paper.group.unique():
        here = ((paper.group == number) & kept).nonzero()[:, 0]
        if len(here) > 1 and float(reward[here].max()) > float(reward[here].min()):
            out[here] = credit(reward[here])
    return out


def standardized(r: Tensor) -> Tensor:
    """DeepSeekMath (2402.03300), section 4.1.2: (r - mean) / std, with verl's 1e-6 below the line."""
    return (r - r.mean()) / (r.std(unbiased=True) + 1e-6)


def centred(r: Tensor) -> Tensor:
    """Dr. GRPO (2503.20783): r - mean."""
    return r - r.mean()


def everyone(paper: Paper) -> Tensor:
    """All responses."""
    return torch.ones_like(paper.correct)


def varied(paper: Paper) -> Tensor:
    """Responses of groups whose rewards differ: verl's `filter_groups`, std > 0."""
    kept = torch.zeros_like(paper.correct)
    for number in paper.group.unique():
        r = paper.reward[paper.group == number]
        kept[paper.group == number] = bool(r.max() > r.min())
    return kept


def mixed(paper: Paper) -> Tensor:
    """Responses of groups with 0 < number correct < G: DAPO (2503.14476), equation 11."""
    kept = torch.zeros_like(paper.correct)
    for number in paper.group.unique():
        right = int(paper.correct[paper.group == number].sum())
        kept[paper.group == number] = 0 < right < int((paper.group == number).sum())
    return kept


def trained(paper: Paper, kept: Tensor) -> Tensor:
    """Tokens [N, T] that count, of the kept responses."""
    return paper.mask & kept[:, None]


def ratio(logp: Tensor, anchor: Tensor) -> Tensor:
    """PPO (1707.06347), equation 6, with the log ratio within +-20 as in verl."""
    return (logp - anchor).clamp(-20.0, 20.0).exp()


def clipped(r: Tensor, a: Tensor, low: float, high: float, dual: float | None = None) -> Tensor:
    """PPO (1707.06347), equation 7, negated; dual clip of Ye et al. (1912.09729), equation 5."""
    objective = torch.minimum(r * a, r.clamp(1 - low, 1 + high) * a)
    if dual is not None:
        objective = torch.where(a < 0, torch.maximum(objective, dual * a), objective)
    return -objective


def k2(logp: Tensor, anchor: Tensor) -> Tensor:
    """Schulman's k2."""
    return 0.5 * (logp - anchor).clamp(-20.0, 20.0) ** 2


def k3(logp: Tensor, ref: Tensor) -> Tensor:
    """DeepSeekMath (2402.03300), equation 4: ref / p - log(ref / p) - 1."""
    x = (ref - logp).clamp(-20.0, 20.0)
    return x.exp() - x - 1


def token_mean(loss: Tensor, mask: Tensor, rows: Tensor) -> Tensor:
    """DAPO (2503.14476), equation 8 as its code has it: the mean over the tokens of the update."""
    return total(loss, mask, rows) / max(int(mask[rows].sum()), 1)


def response_mean(loss: Tensor, mask: Tensor, rows: Tensor) -> Tensor:
    """DeepSeekMath (2402.03300), equation 3: the mean over responses of the mean over their tokens."""
    means = [loss[i][mask[i]].mean() for i in rows.tolist() if mask[i].any()]
    return torch.stack(means).mean() if means else loss.sum() * 0.0


def total(loss: Tensor, mask: Tensor, rows: Tensor) -> Tensor:
    """Sum over the tokens of the update."""
    return torch.where(mask, loss, 0.0)[rows].sum()


def responses(mask: Tensor, rows: Tensor) -> int:
    """Count the responses of the update that have a token."""
    return max(int(mask[rows].any(1).sum()), 1)


def whitened(a: Tensor, mask: Tensor) -> Tensor:
    """REINFORCE++ (2501.03262): (A - mean) / std over all tokens of the batch, 1e-8 added to the variance."""
    values = a.expand_as(mask)[mask]
    mean, variance = values.mean(), values.var(unbiased=True)
    return (a - mean) / (variance + 1e-8).sqrt()


def covariance(paper: Paper, a: Tensor, mask: Tensor) -> Tensor:
    """Entropy mechanism (2505.22617), equation 10: (log p - mean)(A - mean) of each token, -inf elsewhere."""
    wide = a[:, None].expand_as(mask)
    product = (paper.old - paper.old[mask].mean()) * (wide - wide[mask].mean())
    return product.masked_fill(~mask, -math.inf)


def largest(score: Tensor, count: int) -> Tensor:
    """The `count` largest of [N, T], as a mask; -inf is never among them."""
    chosen = torch.zeros_like(score, dtype=torch.bool).flatten()
    chosen[score.flatten().topk(count).indices] = True
    return chosen.view_as(score) & score.isfinite()


def share_of(mask: Tensor, share: float) -> int:
    """Entropy mechanism's code: max(1, floor(share * tokens))."""
    return max(1, int(share * int(mask.sum()) + 1e-9))


def quantile(values: Tensor, share: float) -> float:
    """Quantile, linear between neighbours."""
    ordered = sorted(values.tolist())
    place = share * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return float(ordered[low] + (ordered[high] - ordered[low]) * (place - low))


def agreement(paper: Paper, alpha: float) -> Tensor:
    """SEED-GRPO (2505.12346): 1 - alpha SE / log G, SE the entropy of the answers of a group, counted: [N]."""
    out = torch.ones_like(paper.reward)
    for number in paper.group.unique():
        here = paper.group == number
        given = [("none", i) if x < 0 else (x, 0) for i, x in enumerate(paper.answer[here].tolist())]
        shares = [given.count(each) / len(given) for each in set(given)]
        entropy = -sum(share * math.log(share) for share in shares)
        out[here] = 1 - alpha * entropy / math.log(len(given))
    return out
