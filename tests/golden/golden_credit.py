"""Golden cases of rewards, advantages, aggregation and controllers, computed with our stages."""

import math
from typing import Any

import torch
from golden import Case, Computed
from torch import Tensor

from isentrope.learner.objective.stages import advantage, control, filter, modulation, reduce, reward
from isentrope.learner.training import entropy_law


def per_token(value: Tensor, mask: Tensor) -> Tensor:
    return value[:, None] * mask


def adv_verl(case: Case) -> Computed:
    name = case.ref.partition(":")[2]
    mask = case["response_mask"].bool() if "response_mask" in case.inputs else None
    if name == "compute_rewards":
        ones = torch.ones_like(case["old_log_prob"], dtype=torch.bool)
        penalty = reward.kl_penalty(case["old_log_prob"], case["ref_log_prob"], ones, coef=case.params["kl_ratio"])
        return {"token_level_rewards": case["token_level_scores"] + penalty}
    assert mask is not None
    tokens, group = case["token_level_rewards"], case["index"]
    outcome = tokens.sum(1)
    match name:
        case "compute_grpo_outcome_advantage" | "compute_grpo_vectorized_outcome_advantage":
            a = per_token(advantage.group_mean(outcome, group), mask)
            if case.params["norm_adv_by_std_in_grpo"]:
                a = advantage.group_std(a, outcome, group)
        case "compute_rloo_outcome_advantage" | "compute_rloo_vectorized_outcome_advantage":
            a = per_token(advantage.leave_one_out(outcome, group), mask)
        case "compute_opo_outcome_advantage":
            a = per_token(advantage.length_weighted(outcome, group, mask), mask)
        case "compute_reinforce_plus_plus_baseline_outcome_advantage":
            a = advantage.whiten(per_token(advantage.group_mean(outcome, group), mask), mask)
        case "compute_gpg_outcome_advantage":
            a = advantage.nonzero_share(per_token(advantage.group_mean(outcome, group), mask), outcome, mask)
        case "compute_reinforce_plus_plus_outcome_advantage":
            going = advantage.returns(tokens, mask, gamma=case.params["gamma"])
            return {"returns": going, "advantages": advantage.whiten(going, mask)}
        case "compute_gae_advantage_return":
            p = case.params
            a = advantage.gae(tokens, case["values"], mask, gamma=p["gamma"], lambda_policy=p["lam"])
            targets = advantage.value_targets(tokens, case["values"], mask, gamma=p["gamma"], lambda_value=p["lam"])
            return {"advantages": advantage.whiten(a, mask), "returns": targets}
        case "compute_remax_outcome_advantage":
            a = per_token(advantage.greedy(outcome, case["reward_baselines"]), mask)
            return {"advantages": a, "returns": advantage.returns(tokens, mask)}
        case "compute_grpo_passk_outcome_advantage":
            a = per_token(advantage.best_of_group(outcome, group), mask)
            if case.params["norm_adv_by_std_in_grpo"]:
                a = advantage.group_std(a, outcome, group)
        case "compute_optimal_token_baseline_advantage":
            logp_old, sum_p2 = case["old_log_probs"], case["sum_pi_squared"]
            a = advantage.token_optimal(tokens, group, mask, logp_old, sum_p2)
            return {"advantages": a, "returns": advantage.returns(tokens, mask)}
        case _:
            raise KeyError(name)
    return {"advantages": a}


def adv_other(case: Case) -> Computed:
    name, p = case.ref.partition(":")[2], case.params
    match name:
        case "compute_psr_nsr_outcome_advantage":
            return signed_outcome(case)
        case "RayLeanTrainer._compute_advantages":
            mask, group = case["attention_mask"].bool(), case["uid"]
            shaped = reward.unlikeliness(
                case["rewards"], case["old_log_probs"], mask, group, beta=p["rank_penalty"], rule="code", by="mean"
            )
            a = per_token(advantage.group_mean(shaped, group), mask)
            return {"advantages": advantage.group_std(a, shaped, group, eps=p["epsilon"])}
        case "ZeroMathLearner.compute_monte_carlo_advantages":
            outcome = case["rewards"].sum(1)
            group = torch.arange(len(outcome)) // p["num_samples"]
            a = advantage.group_mean(outcome, group)[:, None]
            if p["critic_type"] == "grpo":
                a = advantage.group_std(a, outcome, group, eps=1e-8)
            return {"advantages": a[:, 0]}
        case "GRPOAdvantageEstimator":
            mask, group, outcome = case["mask"].bool(), case["prompt_ids"], case["rewards"]
            baseline = advantage.leave_one_out if p["use_leave_one_out_baseline"] else advantage.group_mean
            a = baseline(outcome, group)[:, None].expand(mask.shape)
            if p["normalize_rewards"]:
                scale = advantage.leave_one_out_std if p["use_leave_one_out_baseline"] else advantage.group_std
                a = scale(a, outcome, group)
            return {"advantages": a}
        case "ReinforcePlusPlusAdvantageEstimator":
            mask = case["mask"].bool()
            outcome = case["rewards"]
            if p["minus_baseline"]:
                outcome = advantage.group_mean(outcome, case["prompt_ids"])
            a = advantage.whiten(per_token(outcome, mask), mask, eps=0.0, unbiased=False)
            return {"advantages": a}
        case "GeneralizedAdvantageEstimator":
            return generalized(case)
        case "compute_maxrl_advantage":
            mask, outcome = case["response_mask"].bool(), case["token_level_rewards"].sum(1)
            return {"advantages": per_token(advantage.max_likelihood(outcome, case["index"]), mask)}
        case "masked_normalization":
            return {"out": normalized(case["x"], case["mask"].bool(), unbiased=p["unbiased"], eps=p["eps"])}
        case "masked_whiten":
            mask = case["mask"].bool()
            return {"out": advantage.whiten(case["values"], mask, centre=p["shift_mean"])}
        case "apply_loss_reduction_to_advantages_minibatch":
            return {"scaled_advantages": reduced_advantages(case)}
    raise KeyError(name)


def signed_outcome(case: Case) -> Computed:
    mask, p = case["eos_mask"].bool(), case.params
    outcome = case["token_level_rewards"].sum(1)
    correct = outcome == 1
    a = per_token(advantage.constant(outcome, correct, right=0.0, wrong=1.0), mask)
    kept = {"positive": filter.correct_only, "negative": filter.incorrect_only}
    if p["advantage"] in kept:
        a = a * kept[p["advantage"]](correct)[:, None]
    a = advantage.signs(a, positive=p["positive_advantage_weight"] if p["advantage"] == "weighted" else 1.0)
    return {"advantages": a}


def generalized(case: Case) -> Computed:
    mask, values, p = case["mask"].bool(), case["values"], case.params
    tokens = advantage.outcome_rewards(case["rewards"], torch.zeros_like(values), mask)
    lambda_policy = p["gae_lambda_policy"] if p["gae_lambda_policy"] is not None else p["gae_lambda"]
    lambda_value = p["gae_lambda_value"] if p["gae_lambda_value"] is not None else p["gae_lambda"]
    alpha = p["length_adaptive_alpha"]
    a = advantage.gae(tokens, values, mask, gamma=p["gae_gamma"], lambda_policy=lambda_policy, length_adaptive=alpha)
    if p["normalize_advantages"]:
        a = advantage.whiten(a, mask)
    computed: Computed = {
        "advantages": a,
        "returns": advantage.value_targets(tokens, values, mask, gamma=p["gae_gamma"], lambda_value=lambda_value),
    }
    computed["lambda_policy"] = advantage.adaptive_lambda(mask, alpha) if alpha > 0 else lambda_policy
    return computed


def normalized(x: Tensor, mask: Tensor, *, unbiased: bool, eps: float) -> Tensor:
    """(x - mean) / (std + eps): the whitening with its eps beside the root, from two of ours."""
    plain = advantage.whiten(x, mask, eps=0.0, unbiased=unbiased)
    kept = x[mask]
    std = kept.std(unbiased=unbiased)
    return plain * std / (std + eps)


def reduced_advantages(case: Case) -> Tensor:
    """SkyRL folds the reduction of the loss into the advantages; a sum over its micro-batches is ours."""
    mask, p = case["loss_mask"].bool(), case.params
    group = torch.zeros(len(mask), dtype=torch.int64)
    for place, (start, end) in enumerate(p["prompt_boundaries"]):
        group[start:end] = place
    match p["loss_reduction"]:
        case "token_mean":
            factor = reduce.token_mean(mask)
        case "sequence_mean":
            factor = reduce.seq_token_mean(mask)
        case "seq_mean_token_sum_norm":
            factor = reduce.seq_sum_constant(mask, constant=p["max_seq_len"])
        case "prompt_mean":
            factor = reduce.group_token_mean(mask, group)
        case _:
            raise KeyError(p["loss_reduction"])
    return case["advantages"] * factor[:, None]


def seq_token_mean(mask: Tensor) -> Tensor:
    """With the 1e-8 that verl and NeMo-RL add to the number of tokens of a response."""
    count = mask.sum(1).double()
    return reduce.seq_token_mean(mask) * count / (count + 1e-8)


AGGREGATIONS = {
    "token-mean": reduce.token_mean,
    "seq-mean-token-mean": seq_token_mean,
    "seq-mean-token-sum": reduce.seq_sum,
    "token-sum": lambda mask: reduce.sum_constant(mask, constant=1),
}


def agg_loss(case: Case) -> Computed:
    p = case.params
    if case.ref.startswith("oat"):
        values, mask = case["values"], case["mask"].bool()
        factor = reduce.seq_sum_constant(mask, constant=p["constant_normalizer"])
        return weighted(factor, values, mask)
    values, mask = case["loss_mat"], case["loss_mask"].bool()
    mode, ranks = p["loss_agg_mode"], p.get("dp_size", 1)
    if mode == "seq-mean-token-sum-norm":
        constant = p.get("loss_scale_factor", mask.shape[1])
        legacy = case.ref.startswith("em")
        factor = (reduce.sum_constant if legacy else reduce.seq_sum_constant)(mask, constant=constant)
    else:
        legacy = case.ref.startswith("em")
        factor = (reduce.seq_token_mean if legacy and mode == "seq-mean-token-mean" else AGGREGATIONS[mode])(mask)
    # one rank of several: its own denominators are replaced by those of all, and gradients are averaged over ranks
    given, own = ("batch_num_tokens", mask.sum()) if mode == "token-mean" else ("global_batch_size", mask.any(1).sum())
    if given in p and mode != "token-sum":
        factor = factor * own / p[given]
    return weighted(factor * ranks, values, mask)


def weighted(factor: Tensor, values: Tensor, mask: Tensor) -> Computed:
    weight = factor.to(values.dtype)[:, None] * mask
    return {"loss": (weight * values).sum(), "weight": weight}


def reward_shaping(case: Case) -> Computed:
    p = case.params
    if "penalty" in case.outputs:
        limit = p.get("max_completion_len", p.get("max_new_tokens", p.get("max_response_length")))
        buffer = p.get("soft_punish_cache", p.get("overlong_buffer_len", p.get("overlong_tokens")))
        length = case["lengths"]
        factor = p.get("overlong_penalty_factor", 1.0)
        zero = torch.zeros(len(length), dtype=torch.float64)
        shaped = reward.soft_overlong(
            zero, length, limit=limit, buffer=buffer / limit, factor=factor, floor=not case.ref.startswith("areal")
        )
        return {"penalty": shaped}
    if "rewards_out" in case.outputs:
        coef = p["stop_properly_penalty_coef"]
        return {"rewards_out": reward.stop_properly(case["rewards_in"], case["truncated"].bool(), coef=coef)}
    if "keep_raw" in case.outputs:
        correct = case["correct"].bool()
        group = torch.arange(len(correct)).repeat_interleave(correct.shape[1])
        kept = filter.mixed_groups(correct.flatten().float(), group).view(correct.shape)[:, 0]
        return {"keep_raw": kept}
    if "paper_multiplier" in case.outputs:
        logp = case["logp"][:, None]
        one, same = torch.ones(len(logp), dtype=logp.dtype), torch.zeros(len(logp), dtype=torch.int64)
        mask = torch.ones_like(logp, dtype=torch.bool)
        return {
            f"{rule}_multiplier": reward.unlikeliness(one, logp, mask, same, beta=p["beta"], rule=rule)
            for rule in ("paper", "code")
        }
    return answers(case)


def answers(case: Case) -> Computed:
    """A group's answers; its sequence log-probabilities as those of one token, or as a mean over the length."""
    cluster, outcome, length = case["cluster"], case["reward"], case["length"]
    group, mask = torch.zeros_like(cluster), torch.ones(len(cluster), 1, dtype=torch.bool)
    logp = case["seq_logp"][:, None]
    if case.params["logp_used"] == "length_mean":
        logp = logp / length[:, None]
    entropy = {
        "se_count": modulation.answer_entropy(cluster, group, logp, mask, estimate="count")[0],
        "se_renormalised": modulation.answer_entropy(cluster, group, logp, mask, estimate="sequence")[0],
    }
    computed: Computed = dict(entropy)
    centred = advantage.group_mean(outcome, group)
    for name in case.outputs:
        if name.startswith("adv_"):
            _, shape, alpha = name.split("_")
            shapes: dict[str, Any] = {"linear": "linear", "recip": "reciprocal", "exp": "exponential"}
            factor = modulation.semantic_entropy(
                cluster, group, logp, mask, estimate="count", shape=shapes[shape], alpha=float(alpha)
            )
            computed[name] = centred * factor
    return computed


def controllers(case: Case) -> Computed:
    p = case.params
    if "fit_points" in p:
        points = p["fit_points"]
        entropy, rewards = case["H"], case["R"]
        fitted = entropy_law.fit(entropy[:points].tolist(), rewards[:points].tolist())
        assert fitted is not None
        predicted = fitted.b - fitted.a * entropy.exp()
        rmse = (predicted - rewards).square().mean().sqrt()
        return {"a": fitted.a, "b": fitted.b, "ceiling": fitted.ceiling, "pred": predicted, "rmse_all": rmse}
    if "kl" in case.outputs:
        state: control.ControllerState = {"value": p["init_kl_coef"]}
        values = []
        for kl in case["kl"].tolist():
            state = control.adaptive_kl(state, kl, p["n_steps"], target=p["target_kl"], horizon=p["horizon"])
            values.append(state["value"])
        return {"value_after": torch.tensor(values, dtype=torch.float64)}
    if "K_p" in p:
        return proportional_integral(case)
    measured = case["entropy"].tolist()
    if "delta" in p:
        state, weights = {"value": p["initial"]}, []
        for entropy in measured:
            state = control.positive_weight(state, entropy, target=p["target"], delta=p["delta"])
            weights.append(state["value"])
        return {"weight_after": torch.tensor(weights, dtype=torch.float64)}
    return stepped_bonus(case, measured)


def stepped_bonus(case: Case, measured: list[float]) -> Computed:
    p, trl = case.params, "entropy_target" in case.params
    keys = (
        ("entropy_target", "entropy_coef_delta", "entropy_coef_min", "entropy_coef_max", "initial_coef")
        if trl
        else ("target_ent", "delta_ent_coef", "min_ent_coef", "max_ent_coef", "init_ent_coef")
    )
    target, delta, low, high, initial = (p[key] for key in keys)
    state: control.ControllerState = {"value": initial}
    after, enabled, used = [], [], []
    for entropy in measured:
        used.append(state["value"])
        if p.get("use_adapt_ent", True):  # a run without a controller keeps its coefficient
            state = control.entropy_step(
                state, entropy, target=target, delta=delta, low=low, high=high, initial=initial, inclusive=trl
            )
        after.append(state.get("coef", initial))
        enabled.append(not p.get("use_adapt_ent", True) or entropy < target)
    suffix = "effective_coef_used" if trl else "effective_coef_used_this_step"
    computed: Computed = {suffix: torch.tensor(used, dtype=torch.float64)}
    computed["coef_after" if trl else "value_after"] = torch.tensor(after, dtype=torch.float64)
    if not trl:
        computed["enabled_after"] = torch.tensor(enabled, dtype=torch.int64)
    return computed


def proportional_integral(case: Case) -> Computed:
    """One controller step per measurement; the transcribed code averages its integral over micro-batches."""
    p = case.params
    state: control.ControllerState = {}
    alphas, integrals = [], []
    for entropy in case["entropy"].tolist():
        state = control.entropy_pi(
            state,
            entropy,
            target=p["target_entropy"],
            kp=p["K_p"],
            ki=p["K_i"] / p["micro_batches_per_mini_batch"],
            low=p["clip"][0],
            high=p["clip"][1],
            integral_limit=math.inf,
            hold_at_bound=False,
        )
        alphas.append(state["value"])
        integrals.append(state["integral"] / p["micro_batches_per_mini_batch"])
    return {
        "alpha": torch.tensor(alphas, dtype=torch.float64),
        "integral_after": torch.tensor(integrals, dtype=torch.float64),
    }
