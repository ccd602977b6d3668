"""Monitors of an objective, as pure functions without gradient.

Numbers of one update are sums and maxima, so that micro-batches and ranks can be added up before anything is divided
(`measured`, `update_metrics`). n responses of a micro-batch, T tokens.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from isentrope.kernels.limits import LOG_RATIO_CLAMP
from isentrope.learner.objective import critic_terms, selection
from isentrope.learner.objective.batch import Batch, Prepared

HISTOGRAM_EDGES = (0.0, 0.01, 0.03, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 5.0, 15.0)
"""Nats; narrow where most tokens are, up to above the logarithm of any vocabulary."""


def without_gradient(policy: Tensor, logp: Tensor) -> Tensor:
    """Return the tokens whose surrogate does not depend on their log-probability, such as clipped ones: [n, T] bool.

    policy: [n, T], the surrogate before weights; logp: [n, T], what it was computed from.
    """
    if not policy.requires_grad:
        return torch.zeros_like(policy, dtype=torch.bool)
    (gradient,) = torch.autograd.grad(policy.sum(), logp, retain_graph=True)
    return gradient == 0


@torch.no_grad()
def update_sums(
    scope: Mapping[str, Any], losses: Mapping[str, Tensor], moving: Sequence[tuple[str, Tensor]] = ()
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return sums and maxima over the masked tokens of some responses.

    scope: of `Objective.token_loss`; losses: their parts of the update's loss; moving: weights that follow the current
    policy, [n, T] each, with their kinds.
    """
    mask, advantage = scope["mask"], scope["advantage"]
    clipped = scope["clipped"] & mask & (advantage != 0)
    x = scope["logp"] - scope["logp_old"]
    per_token: dict[str, Tensor] = {
        "tokens": torch.ones_like(scope["logp"]),
        "entropy": scope["entropy"],
        "logp_old": scope["logp_old"],
        "ratio": scope["ratio"],
        "clip_high": (clipped & (advantage > 0)).to(x.dtype),
        "clip_low": (clipped & (advantage < 0) & (scope["ratio"] <= 1)).to(x.dtype),
        "clip_dual": (clipped & (advantage < 0) & (scope["ratio"] > 1)).to(x.dtype),
        "selected": (scope["weight"] != 0).to(x.dtype),
        "weight": scope["weight"],
        "weight_square": scope["weight"].square(),
        "kl_old": (-x).exp() - 1 + x,
        "advantage_positive": advantage.clamp_min(0) * scope["logp"].exp(),
        "advantage_negative": advantage.clamp_max(0) * scope["logp"].exp(),
    }
    if "logp_ref" in scope:
        per_token["kl_ref"] = scope["logp"] - scope["logp_ref"]
    per_token |= {f"kept_{kind}": (weight != 0).to(x.dtype) for kind, weight in moving}
    sums = {name: torch.where(mask, value, 0.0).sum(dtype=torch.float64) for name, value in per_token.items()}
    sums["responses"] = mask.any(1).sum().double()
    sums |= {f"loss_{name}": loss.detach().double() for name, loss in losses.items()}
    ratio = torch.where(mask & (scope["weight"] != 0), scope["ratio"], 0.0)
    return sums, {"ratio_max": ratio.amax().double() if ratio.numel() else torch.zeros((), dtype=torch.float64)}


def measured(sums: Mapping[str, float]) -> dict[str, float]:
    """Return the inputs of controllers from the sums of an update: means per token, and the number of responses."""
    tokens = max(sums["tokens"], 1.0)
    return {
        "entropy": sums["entropy"] / tokens,
        "sampled_entropy": -sums["logp_old"] / tokens,
        "kl": sums.get("kl_ref", 0.0) / tokens,
        "responses": sums["responses"],
    }


def update_metrics(sums: Mapping[str, float], maxima: Mapping[str, float]) -> dict[str, float]:
    """Return metrics of one update, or of several with added sums: means per token and the loss with its parts.

    effective_sample: (sum w)^2 / (tokens sum w^2) of the weights of the policy term.
    """
    tokens = max(sums["tokens"], 1.0)
    means = (
        "entropy",
        "clip_high",
        "clip_low",
        "clip_dual",
        "selected",
        "kl_old",
        "kl_ref",
        "advantage_positive",
        "advantage_negative",
    )
    kept = [name for name in sums if name.startswith("kept_")]
    metrics = {name: sums[name] / tokens for name in (*means, *kept) if name in sums}
    metrics["ratio_mean"] = sums["ratio"] / tokens
    metrics["effective_sample"] = sums["weight"] ** 2 / max(tokens * sums["weight_square"], 1e-30)
    losses = {name: value for name, value in sums.items() if name.startswith("loss_")}
    return metrics | losses | {"loss": sum(losses.values())} | dict(maxima)


@torch.no_grad()
def prepared_metrics(scope: Mapping[str, Any], weights: Sequence[tuple[str, Tensor]]) -> dict[str, float]:
    """Return metrics of the responses that the filters kept: shaped reward, advantages, covariance, kept token shares.

    scope: of `Objective.prepare`; weights: [N, T] each, with their kinds.
    """
    mask, advantage = scope["mask"], scope["advantage"]
    acting = [(kind, weight) for kind, weight in weights if (weight != 1).any()]
    kept = {f"kept_{kind}": float(selection.mean((weight != 0).double(), mask)) for kind, weight in acting}
    return (
        kept
        | critic_terms.metrics(scope)
        | {
            "reward_shaped": _mean(scope["reward"][_sampled(scope)]),
            "advantage_abs": float(selection.mean(advantage.abs(), mask)),
            "covariance": float(selection.mean(selection.covariance(scope["logp"], advantage, mask), mask)),
        }
    )


def _sampled(scope: Mapping[str, Any]) -> Tensor:
    """Return the rows that are responses, not demonstrations: [N] bool."""
    if "demonstration" not in scope:
        return torch.ones_like(scope["mask"][:, 0])
    sampled: Tensor = ~scope["demonstration"].any(1)
    return sampled


@torch.no_grad()
def demonstration_metrics(prepared: Prepared) -> dict[str, float]:
    """Return metrics of the demonstrations of a batch; empty where the run has none."""
    batch = prepared.batch
    if batch.demonstration is None:
        return {}
    shown = ~batch.sampled
    found = {
        "demonstrations": float(shown.sum()),
        "demonstration_share": _mean(batch.demonstration[prepared.mask]),
    }
    if not shown.any():
        return found
    logp = batch.statistics.logp[batch.demonstration]
    return found | {"demonstration_nll": -_mean(logp), "demonstration_reward": _mean(batch.reward[shown])}


@torch.no_grad()
def batch_metrics(batch: Batch, prepared: Prepared) -> dict[str, Any]:
    """Return metrics of a whole batch, before any filter unless named otherwise; numbers, and lists of numbers.

    Entropies are of the full next-token distribution before the first update, over all trained tokens. pass_rate and
    the shares of groups are on what the reward functions gave; those of correctness are absent where rewards are
    graded.
    """
    mask, statistics = batch.mask, batch.statistics
    tokens = mask.sum().clamp_min(1)
    size = selection.group_size(batch.group)
    gap = (statistics.logp - batch.logp_rollout)[mask].double()
    importance = gap.clamp(-LOG_RATIO_CLAMP, LOG_RATIO_CLAMP).exp()
    drift = ((batch.logp_rollout - statistics.logp) * mask).sum(1) / mask.sum(1).clamp_min(1)
    metrics: dict[str, Any] = {
        "reward": _mean(batch.reward),
        "reward_std": float(batch.reward.double().std(unbiased=False)),
        "groups_same_reward": _mean(~selection.group_varies(batch.reward, batch.group) / size) * _groups_factor(size),
        "truncated": _mean(batch.truncated),
        "length_mean": _mean(batch.length),
        "tokens": int(mask.sum()),
        "kept": float(prepared.mask.sum() / tokens),
        "kept_policy": float(((prepared.weight != 0) & prepared.mask).sum() / tokens),
        "logp_gap_mean": float(gap.abs().mean()) if len(gap) else 0.0,
        "logp_gap_max": float(gap.abs().max()) if len(gap) else 0.0,
        "importance_mean": _mean(importance),
        "importance_max": float(importance.max()) if len(gap) else 1.0,
        "importance_effective": float(importance.sum() ** 2 / (tokens * importance.square().sum()).clamp_min(1e-30)),
        "kl_rollout": _mean(importance - 1 - gap),
        "kl_rollout_k1": _mean(-gap),
        "drift_quantiles": _quantiles(drift[mask.any(1)], (0.5, 0.9, 0.99)),
    }
    if batch.correct is not None:
        right = selection.group_sum(batch.correct.double(), batch.group)
        metrics |= {
            "pass_rate": _mean(batch.correct),
            "groups_all_correct": _mean((right == size) / size) * _groups_factor(size),
            "groups_all_wrong": _mean((right == 0) / size) * _groups_factor(size),
        }
    if batch.fresh is not None and len(fresh := (statistics.logp - batch.logp_rollout)[mask & batch.fresh]):
        metrics["logp_gap_fresh"] = _mean(fresh.abs())
    if batch.logp_ref is not None:
        x = (statistics.logp - batch.logp_ref)[mask].double()
        metrics |= {"kl_ref": _mean(x), "kl_ref_k3": _mean((-x).exp() - 1 + x)}
    metrics |= entropy_metrics(statistics.entropy, mask, batch.source, batch.source_names)
    metrics["reward_by_source"] = _by_source(batch.reward, batch)
    if batch.correct is not None:
        metrics["pass_rate_by_source"] = _by_source(batch.correct, batch)
    metrics["entropy_policy"] = _mean(statistics.entropy[prepared.mask & (prepared.weight != 0)])
    return metrics | dict(prepared.metrics)


def entropy_metrics(entropy: Tensor, mask: Tensor, source: Tensor, names: Sequence[str]) -> dict[str, Any]:
    """Return the distribution of token entropies [N, T]: mean, nine deciles, histogram, by position in the response, by
    data set."""
    values = entropy[mask].double()
    if not len(values):
        return {"entropy": 0.0}
    edges = torch.tensor(HISTOGRAM_EDGES, dtype=values.dtype)
    counts = torch.bincount(torch.bucketize(values, edges[1:-1], right=True), minlength=len(edges) - 1)
    by_source = {name: mask & (source == place)[:, None] for place, name in enumerate(names)}
    return {
        "entropy": float(values.mean()),
        "entropy_deciles": _quantiles(values, [tenth / 10 for tenth in range(1, 10)]),
        "entropy_hist": {"edges": list(HISTOGRAM_EDGES), "counts": counts.tolist()},
        "entropy_by_position": _by_position(entropy, mask),
        "entropy_by_source": {name: _mean(entropy[here]) for name, here in by_source.items() if here.any()},
    }


def _by_source(values: Tensor, batch: Batch) -> dict[str, float]:
    """Return the mean of values [N] over the responses of each data set."""
    return {
        name: _mean(values[batch.source == place])
        for place, name in enumerate(batch.source_names)
        if (batch.source == place).any()
    }


def _by_position(entropy: Tensor, mask: Tensor) -> list[float]:
    """Return the mean entropy in ten equal parts of each response; a part without tokens repeats the one before."""
    place = mask.cumsum(1) - 1
    tenth = (10 * place / mask.sum(1, keepdim=True).clamp_min(1)).long().clamp(0, 9)
    total = torch.zeros(10, dtype=torch.float64).index_add_(0, tenth[mask], entropy[mask].double())
    count = torch.bincount(tenth[mask], minlength=10)
    means: list[float] = []
    for part in range(10):
        empty = means[-1] if means else 0.0
        means.append(float(total[part] / count[part]) if count[part] else empty)
    return means


def _quantiles(values: Tensor, shares: Sequence[float]) -> list[float]:
    if not len(values):
        return [0.0] * len(shares)
    everything = torch.ones_like(values, dtype=torch.bool)
    return [float(selection.quantile(values, everything, share)) for share in shares]


def _mean(values: Tensor) -> float:
    return float(values.double().mean()) if values.numel() else 0.0


def _groups_factor(size: Tensor) -> float:
    """Return the factor that turns a mean over responses, each divided by its group's size, into a mean over groups."""
    return float(len(size) / (1 / size).sum())
