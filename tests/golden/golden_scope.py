"""Which golden cases are compared. Everything that is not stands here, by a rule with its reason, never by name."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from golden import Case
from torch import Tensor


@dataclass(frozen=True)
class Rule:
    """Cases of `family` for which `applies`."""

    family: str
    applies: Callable[[Case], bool]
    reason: str


def _symbol(*names: str) -> Callable[[Case], bool]:
    return lambda case: case.ref.partition(":")[2] in names


def _alone(case: Case) -> Tensor:
    """Responses that are alone in their group: [B] bool."""
    _, place, count = torch.unique(case["index"], return_inverse=True, return_counts=True)
    alone: Tensor = count[place] == 1
    return alone


def _rounded_threshold(case: Case) -> bool:
    """Whether rounding the quantile of the entropies to float32 changes which tokens are above it."""
    keep = case.params.get("top_entropy_quantile")
    if keep is None or case.shared("entropy").dtype == torch.float32:
        return False
    values = case.shared("entropy")[case.shared("mask").bool()]
    exact = torch.quantile(values, 1 - keep)
    return bool(((values >= exact) != (values >= torch.quantile(values.float(), 1 - keep))).any())


OUT_OF_SCOPE = (
    Rule("rollout_correction", _symbol("compute_offpolicy_metrics"), "only logs metrics"),
    Rule(
        "adv_other",
        _symbol("compute_grpo_outcome_advantage_split"),
        "legacy variant: statistics of on-policy responses only, which the published script does not use",
    ),
    Rule(
        "adv_other",
        lambda case: case.params.get("loss_reduction") == "token_mean_legacy",
        "legacy variant: a mean over micro-batches of their own means",
    ),
    Rule(
        "kl_estimators",
        lambda case: "logits_ref" in case.inputs,
        "closed form over the vocabulary, which no stage takes: it would need the reference's logits",
    ),
)

EXCLUDED = (
    Rule(
        "adv_verl",
        lambda case: (
            _symbol("compute_reinforce_plus_plus_baseline_outcome_advantage")(case) and bool(_alone(case).any())
        ),
        "a response alone in its group keeps its raw reward there, and moves the whitening of all; here it has none",
    ),
    Rule(
        "agg_loss",
        lambda case: "outer" in case.params and bool((case["mask"].sum(1) == 0).any()),
        "the mean over responses counts one without any token there",
    ),
    Rule(
        "trl_grpo",
        _rounded_threshold,
        "the entropy threshold is rounded to float32 there, but not the entropy that equals it: its last bits decide",
    ),
    Rule(
        "edge_cases",
        lambda case: "reward" in case.params,
        "equal rewards get a spurious advantage there, by rounding against eps; here it is exactly 0",
    ),
    Rule(
        "policy_loss_cov",
        lambda case: "advantages" in case.params,
        "advantages are divided by the number of tokens before thresholds and additive penalties see them",
    ),
    Rule(
        "policy_loss_cov",
        lambda case: case.params.get("mask_dtype") == "int",
        "an integer mask is used as an index there, which gathers rows instead of selecting tokens",
    ),
    Rule(
        "policy_loss_other",
        lambda case: case.outputs.get("loss") == "nan",
        "0 * (0 / 0) there when no response is correct",
    ),
)

RAW_IF_ALONE = _symbol(
    "compute_grpo_outcome_advantage",
    "compute_grpo_vectorized_outcome_advantage",
    "compute_rloo_outcome_advantage",
    "compute_opo_outcome_advantage",
    "compute_gpg_outcome_advantage",
)
"""Where a response alone in its group keeps its raw reward; here it has no advantage. The others are compared."""

LOOSER = (
    (
        Rule(
            "policy_loss_verl",
            _symbol("compute_policy_loss_geo_mean"),
            "adds 1e-8 to the number of tokens in an exponent",
        ),
        1e-7,
    ),
    (
        Rule(
            "rollout_correction",
            lambda case: bool(case.params.get("rollout_is_batch_normalize")),
            "adds 1e-8 to the number of tokens of each response before it averages",
        ),
        1e-7,
    ),
    (
        Rule(
            "nemo_clipped_pg",
            lambda case: bool(case.params["sequence_level_importance_ratios"]),
            "adds 1e-8 to the number of tokens in an exponent",
        ),
        1e-7,
    ),
    (Rule("adv_verl", _symbol("compute_gpg_outcome_advantage"), "its share of responses is float32"), 1e-7),
    (Rule("adv_other", _symbol("RayLeanTrainer._compute_advantages"), "its multipliers are float32"), 1e-5),
    (Rule("trl_grpo", lambda case: case.params.get("loss_type") == "sapo", "its temperatures are float32"), 1e-5),
)
"""Tolerances wider than the layout's own, and why."""

UNCOMPARED = frozenset(
    {
        # metrics of the reference
        "pg_clipfrac",
        "pg_clipfrac_lower",
        "ppo_kl",
        "clipfrac",
        "clip_ratio",
        "filtered_fraction",
        "max_abs",
        "num",
        "eff_sample_size",
        "mean",
        "probs_ratio",
        "kl_penalty",
        "token_mult_prob_error",
        "gen_kl_error",
        "policy_kl_error",
        "js_divergence_error",
        "sampling_importance_ratio",
        "approx_entropy",
        "positive_nll_loss",
        "off_pg_loss",
        "on_pg_loss",
        "off_ratio_mean",
        "is_oob_ratio",
        "max_abs_grad_difference_to_verl",
        "abs_metric",
        # what is stored with a case because its call got it
        "old_logp",
        "logp",
        "adv",
        "mask",
        "log_ratio_theta_minus_ref",
        "reward_baselines",
        "sum_pi_squared",
        "prefix_mask",
        "step_correct",
        "selected",
        "keep",
        "lengths",
        "truncated",
        "rewards_in",
        "correct",
        "shaped_reward",
        "cluster",
        "seq_logp",
        "length",
        "reward",
        "entropy",
        "kl",
        "H",
        "R",
        # another way to compute the same, which is not offered
        "linear",
        "se_unnormalised",
        "dH_numeric",
        "keep_if_judged_on_shaped",
        "clip_keep",
        "returns",
    }
)
"""Outputs that an adapter may leave out."""


def rule_for(case: Case) -> Rule | None:
    """The rule that keeps a case from being compared, if there is one."""
    return next((r for r in (*OUT_OF_SCOPE, *EXCLUDED) if r.family == case.family and r.applies(case)), None)


def compared_rows(case: Case) -> Tensor | None:
    """The responses whose values per token are compared: [B] bool; all, if None."""
    return ~_alone(case) if case.family == "adv_verl" and RAW_IF_ALONE(case) else None


def tolerance(case: Case) -> float:
    """Relative, for a case."""
    wider = [allowed for rule, allowed in LOOSER if rule.family == case.family and rule.applies(case)]
    return max([case.tolerance, *wider])
