"""The dimensions of an objective and the kinds of each: the one table of what can be configured.

Several stages of one dimension run in the order of their kinds here, for any order of the tables.
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict

from isentrope.learner.objective.batch import BATCH_NAMES
from isentrope.learner.objective.schema import Choice, Dimension, Form, Function, Kind, NonNegative, kind_of, kinds
from isentrope.learner.objective.stages import (
    advantage,
    auxiliary,
    clip,
    control,
    correction,
    critic,
    entropy,
    filter,
    kl,
    modulation,
    ratio,
    reduce,
    reset,
    responses,
    reward,
    tokens,
)

CHOICES = {
    "stats": Choice(
        ("old", "rollout", "microbatch"),
        "Where selections take their statistics from. "
        '"old": the learner before the first update, over the whole batch. '
        '"rollout": the sampling engine, over the whole batch, without a pass of the learner. '
        '"microbatch": the current policy, over one micro-batch at a time; the result then depends on the packing.',
    ),
    "ratio.routing": Choice(
        ("none", "learner", "engine"),
        'Whose choice of experts log-probabilities are computed with. "none": each pass makes its own. The other '
        "values need routing replay, which is not implemented, and are refused.",
    ),
    "ratio.sampling_mask": Choice(
        ("none", "engine"),
        'Over whose choice of tokens log-probabilities are renormalised. "none": the whole vocabulary. "engine": the '
        "tokens that `sampling.top_k` and `sampling.top_p` had left when the token was sampled, for the current, the "
        "old and the reference policy; the gradient of a log-probability then moves no other token. Entropies stay "
        "those of the whole distribution, for bonus, controllers and metrics.",
    ),
}
"""Keys that are one word, by their place below `learner.objective`."""


class KlKeys(BaseModel):
    """Keys of every KL term, beside those of its estimator (`kind`)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    anchor: Literal["ref", "old", "rollout"] = "ref"
    """Policy to which the current one is held: the reference model, the learner before the update, the sampling
    engine."""
    coef: NonNegative = 0.0
    """Weight of the term. Too high holds the policy at its anchor; too low lets it drift; 0 does nothing."""
    tokens: str | dict[str, object] = "all"
    """`all`, or a kind of `kl.tokens` with its keys: which tokens the term is for."""
    importance: Literal["none", "old", "rollout", "score"] = "none"
    """Factor with gradient on the estimate: p / p_old, p / p_rollout, or p / sg[p] (value 1). With `k3` and "old" it is
    the unbiased estimate of DeepSeek-V3.2 (https://arxiv.org/abs/2512.02556)."""
    gradient: Literal["own", "k2"] = "own"
    """"k2": the value of the estimator with the gradient of `k2`, verl's "+" forms."""


_TABLE = (
    Dimension(
        "filter",
        Form.BY_KIND,
        kinds(
            mixed_groups=filter.mixed_groups,
            correct_only=filter.correct_only,
            incorrect_only=filter.incorrect_only,
            not_truncated=filter.not_truncated,
        ),
    ),
    Dimension(
        "reward",
        Form.BY_KIND,
        kinds(
            scheme=reward.scheme,
            unlikeliness=reward.unlikeliness,
            stop_properly=reward.stop_properly,
            soft_overlong=reward.soft_overlong,
            kl_penalty=reward.kl_penalty,
        ),
    ),
    Dimension(
        "advantage.baseline",
        Form.ONE,
        kinds(
            none=advantage.none,
            constant=advantage.constant,
            group_mean=advantage.group_mean,
            leave_one_out=advantage.leave_one_out,
            length_weighted=advantage.length_weighted,
            token_optimal=advantage.token_optimal,
            greedy=advantage.greedy,
            best_of_group=advantage.best_of_group,
            max_likelihood=advantage.max_likelihood,
            entropy_range=advantage.entropy_range,
            per_reward=advantage.per_reward,
            teacher=advantage.teacher,
            returns=advantage.returns,
            gae=advantage.gae,
        ),
        default="group_mean",
    ),
    Dimension(
        "advantage.scale",
        Form.ONE,
        kinds(
            none=advantage.unscaled,
            group_std=advantage.group_std,
            leave_one_out_std=advantage.leave_one_out_std,
            whiten=advantage.whiten,
            signs=advantage.signs,
            nonzero_share=advantage.nonzero_share,
        ),
        default="group_std",
    ),
    Dimension("modulation", Form.BY_KIND, kinds(semantic_entropy=modulation.semantic_entropy)),
    Dimension(
        "tokens",
        Form.BY_KIND,
        kinds(
            positive_weight=tokens.positive_weight,
            step_labels=tokens.step_labels,
            entropy_change=tokens.entropy_change,
            entropy_change_exact=tokens.entropy_change_exact,
            discriminator=tokens.discriminator,
            centred_discriminator=tokens.centred_discriminator,
            top_entropy=tokens.top_entropy,
            top_cov=tokens.top_cov,
            band_cov=tokens.band_cov,
        ),
    ),
    Dimension(
        "responses",
        Form.BY_KIND,
        kinds(sequence_divergence=responses.sequence_divergence, geometric_mask=responses.geometric_mask),
    ),
    Dimension(
        "correction",
        Form.BY_KIND,
        kinds(
            truncate=correction.truncate,
            truncate_current=correction.truncate_current,
            band=correction.band,
            reject=correction.reject,
            second_moment=correction.second_moment,
        ),
    ),
    Dimension(
        "ratio.level",
        Form.ONE,
        kinds(none=ratio.none, token=ratio.token, sequence=ratio.sequence),
        default="token",
    ),
    Dimension(
        "ratio.anchor",
        Form.ONE,
        kinds(old=ratio.old, rollout=ratio.rollout, interpolated=ratio.interpolated),
        default="old",
    ),
    Dimension(
        "clip",
        Form.ONE,
        kinds(
            ppo=clip.ppo,
            none=clip.none,
            preserving=clip.preserving,
            mask=clip.mask,
            truncated_ratio=clip.truncated_ratio,
            soft_gate=clip.soft_gate,
            geometric_mean=clip.geometric_mean,
            total_variation=clip.total_variation,
            divergence=clip.divergence,
            gamma_weight=clip.gamma_weight,
            score_function=clip.score_function,
        ),
        default="ppo",
    ),
    Dimension(
        "kl",
        Form.WHOLE,
        kinds(k1=kl.k1, abs=kl.absolute, k2=kl.k2, k3=kl.k3, sequence_k2=kl.sequence_k2),
        keys=KlKeys,
    ),
    Dimension("entropy", Form.ONE, kinds(bonus=entropy.bonus), default="bonus"),
    Dimension(
        "aux",
        Form.BY_KIND,
        kinds(
            positive_nll=auxiliary.positive_nll,
            demonstration_nll=auxiliary.demonstration_nll,
            high_prob_push=auxiliary.high_prob_push,
            shaped_demonstration=auxiliary.shaped_demonstration,
        ),
    ),
    Dimension(
        "reduce",
        Form.ONE,
        kinds(
            token_mean=reduce.token_mean,
            group_token_mean=reduce.group_token_mean,
            seq_token_mean=reduce.seq_token_mean,
            seq_sum=reduce.seq_sum,
            seq_sum_constant=reduce.seq_sum_constant,
            sum_constant=reduce.sum_constant,
        ),
        default="token_mean",
    ),
    Dimension(
        "control",
        Form.BY_KIND,
        kinds(
            entropy_step=control.entropy_step,
            entropy_pi=control.entropy_pi,
            positive_weight=control.positive_weight,
            positive_weight_by_stage=control.positive_weight_by_stage,
            positive_weight_by_epoch=control.positive_weight_by_epoch,
            adaptive_kl=control.adaptive_kl,
        ),
    ),
    Dimension("reset", Form.ONE, kinds(never=reset.never, on_stagnation=reset.on_stagnation), default="never"),
    Dimension("critic", Form.ONE, kinds(none=critic.none, clipped=critic.clipped), default="none"),
)

DIMENSIONS = {dimension.path: dimension for dimension in _TABLE}

_STATISTICS = BATCH_NAMES | {"advantage", "logp", "entropy", "clipped", "uniform"}
_UPDATE = _STATISTICS | {"logp_anchor", "log_ratio", "ratio"}

READABLE: dict[str, frozenset[str]] = {
    "filter": BATCH_NAMES,
    "reward": BATCH_NAMES,
    "advantage.baseline": BATCH_NAMES | {"token_reward"},
    "advantage.scale": BATCH_NAMES | {"token_reward", "advantage"},
    "modulation": BATCH_NAMES | {"token_reward", "advantage"},
    "tokens": _STATISTICS,
    "responses": _UPDATE,
    "correction": _UPDATE,
    "ratio.anchor": _STATISTICS,
    "ratio.level": _STATISTICS | {"logp_anchor"},
    "clip": _UPDATE,
    "kl": _UPDATE | {"x"},
    "kl.tokens": _STATISTICS,
    "entropy": _UPDATE,
    "aux": _UPDATE,
    "reduce": frozenset({"mask", "group"}),
    "control": frozenset({"state", "entropy", "sampled_entropy", "kl", "responses", "progress"}),
    "reset": frozenset({"state", "score", "batch"}),
    "critic": frozenset({"values", "values_old", "returns"}),
}
"""Names that a stage of each dimension may read."""

KL_TOKENS = kinds(
    top_cov=tokens.top_covariance,
    low_entropy_cov=tokens.low_entropy_covariance,
)
"""Token sets of a KL term, by kind."""

AUX_SETS: dict[Function, Kind] = {
    auxiliary.positive_nll: kind_of("positive_nll", auxiliary.positive_nll_set),
    auxiliary.demonstration_nll: kind_of("demonstration_nll", auxiliary.demonstration_nll_set),
}
"""Token sets of auxiliary terms that are a mean over their own tokens, by the terms' functions; the other terms share
the policy term's denominators."""
