"""Rules of the fused kernels for an objective, derived from its dimensions, and a micro-batch's inputs to a kernel.

A batch's selections, masks, corrections and denominators are fixed by `Objective.prepare`, so to a kernel they are
weights and verdicts per token; what is left for it is the surrogate of one token, the bonus, and a penalty on selected
tokens. Everything else takes the generic path: `Objective.token_loss` on the log-probabilities and entropies that
`kernels` gives.

A kernel does not clamp log ratios of the penalty: beyond +-20 its gradient goes on where the generic one ends.
"""

import torch
from torch import Tensor

from isentrope.kernels.policy import LossRules, TokenInputs
from isentrope.learner.objective.batch import Prepared
from isentrope.learner.objective.needs import acts
from isentrope.learner.objective.objective import CURRENT, KlTerm, Objective
from isentrope.learner.objective.stages import clip, kl, ratio, reduce, tokens

UNIFORM = (reduce.token_mean, reduce.seq_sum, reduce.seq_sum_constant, reduce.sum_constant)
"""Reductions that weigh every token of an update alike."""


def rules_of(objective: Objective) -> LossRules | None:
    """Return the rules that make a kernel's loss the objective's, or None where it needs the generic path."""
    terms = [term for term in objective.kl if acts(objective, term)]
    coef = float(objective.entropy.params["coef"])
    if not _token_local(objective) or len(terms) > 1 or not all(_is_penalty(term, objective) for term in terms):
        return None
    if coef and objective.entropy.params["tokens"] == "selected":
        return None
    if (coef or terms) and not objective.reduce.runs(*UNIFORM):
        return None
    bounds = objective.clip.params if objective.clip.runs(clip.ppo) else {"low": None, "high": None, "dual": None}
    penalty = {}
    if terms and terms[0].tokens is not None:
        penalty = {"select": "top_cov", "action": "abs_kl", "share": terms[0].tokens.params["share"]}
        penalty["kl_coef"] = float(terms[0].keys.coef)
    return LossRules(
        clip_low=bounds["low"],
        clip_high=bounds["high"],
        clip_dual=bounds["dual"],
        entropy_coef=coef,
        log_ratio_clamp=float(objective.level.params["clamp"]),
        **penalty,
    )


def token_inputs(objective: Objective, prepared: Prepared, update: int, rows: Tensor) -> TokenInputs:
    """Return what kernels take for responses `rows` [n] of an update, for an objective that has rules for them: each
    field [n, T], on the CPU."""
    batch = prepared.batch
    mask, weight, reduce = prepared.mask[rows], prepared.weight[rows], prepared.reduce[update, rows]
    if batch.demonstration is not None:
        mask = mask & ~batch.demonstration[rows]
    uniform = objective.reduce.runs(*UNIFORM)
    selected = [
        values[rows] != 0
        for term, values in zip(objective.kl, prepared.kl_weight, strict=True)
        if values is not None and acts(objective, term)
    ]
    return TokenInputs(
        advantage=prepared.advantage[rows],
        logp_old=(batch.logp_rollout if objective.anchor.runs(ratio.rollout) else batch.statistics.logp)[rows],
        mask=mask,
        weight=weight if uniform else weight * reduce[:, None].to(weight.dtype),
        normalizer=reduce[:1].float() if uniform else torch.ones(1),
        selected=selected[0] if selected else None,
    )


def _token_local(objective: Objective) -> bool:
    """Return True if the loss of a token depends on its own numbers and on values fixed for the batch only."""
    weights = (*objective.responses, *objective.correction)
    return (
        objective.clip.runs(clip.ppo, clip.none)
        and objective.level.runs(ratio.token)
        and objective.anchor.runs(ratio.old, ratio.rollout)
        and objective.stats != "microbatch"
        and all(CURRENT.isdisjoint(stage.kind.reads) for stage in weights)
        and not objective.control
        and not objective.aux
    )


def _is_penalty(term: KlTerm, objective: Objective) -> bool:
    """Return True if a divergence is the absolute log ratio of selected tokens to the ratio's own anchor."""
    of_ratio = {ratio.old: "old", ratio.rollout: "rollout"}.get(objective.anchor.kind.function)
    return (
        term.estimator.runs(kl.absolute)
        and term.keys.anchor == of_ratio
        and term.keys.importance == "none"
        and term.keys.gradient == "own"
        and term.tokens is not None
        and term.tokens.runs(tokens.top_covariance)
    )
