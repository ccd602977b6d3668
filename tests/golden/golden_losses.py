"""Golden cases of surrogates, divergences, selections and corrections, computed with our stages."""

import math
from collections.abc import Callable
from typing import Any

import torch
from golden import Case, Computed
from golden_credit import AGGREGATIONS, seq_token_mean
from torch import Tensor

from isentrope.kernels import plain
from isentrope.learner.objective import selection
from isentrope.learner.objective.stages import (
    advantage,
    auxiliary,
    clip,
    correction,
    critic,
    kl,
    ratio,
    reduce,
    responses,
    tokens,
)

Surrogate = Callable[[Tensor], Tensor]
Reduction = Callable[[Tensor], Tensor]
NO_DUAL = 1e9
"""verl's way to say that there is no dual clip."""


def evaluate(logp: Tensor, loss_of: Surrogate) -> tuple[Tensor, Tensor]:
    """A loss and its gradient with respect to the log-probabilities."""
    leaf = logp.detach().clone().requires_grad_()
    loss = loss_of(leaf)
    (gradient,) = torch.autograd.grad(loss, leaf)
    return loss, gradient


def reduced(per_token: Tensor, mask: Tensor, reduction: Reduction) -> Tensor:
    factor = reduction(mask).to(per_token.dtype)[:, None]
    return (factor * torch.where(mask, per_token, 0.0)).sum()


def aggregation(mode: str, mask: Tensor, constant: int | None = None) -> Reduction:
    """A reduction by verl's name. constant: of the mode that has one, else the padded length."""
    if mode == "seq-mean-token-sum-norm":
        return lambda m: reduce.seq_sum_constant(m, constant=constant or mask.shape[1])
    return AGGREGATIONS[mode]


def token_ratio(logp: Tensor, anchor: Tensor) -> Tensor:
    return ratio.token(logp, anchor).exp()


def sequence_ratio(logp: Tensor, anchor: Tensor, mask: Tensor, clamp: float = 20.0) -> Tensor:
    return ratio.sequence(logp, anchor, mask, clamp=clamp).exp()


def verl_surrogate(name: str, p: dict[str, float], old: Tensor, a: Tensor, mask: Tensor) -> Surrogate:
    low, high = p.get("clip_ratio_low", p.get("clip_ratio", 0.2)), p.get("clip_ratio_high", p.get("clip_ratio", 0.2))
    dual, cap = p.get("clip_ratio_c", 3.0), p.get("clip_ratio_c", 20.0)
    match name:
        case "compute_policy_loss_vanilla":
            bound = None if dual == NO_DUAL else dual
            return lambda logp: clip.ppo(token_ratio(logp, old), a, low=low, high=high, dual=bound)
        case "compute_policy_loss_gspo":
            return lambda logp: clip.ppo(sequence_ratio(logp, old, mask, clamp=10.0), a, low=low, high=high)
        case "compute_policy_loss_cispo":
            return lambda logp: clip.truncated_ratio(token_ratio(logp, old), logp, a, low=low, high=high)
        case "compute_policy_loss_sapo":
            return lambda logp: clip.soft_gate(token_ratio(logp, old), a, positive=p["tau_pos"], negative=p["tau_neg"])
        case "compute_policy_loss_geo_mean":
            return lambda logp: clip.geometric_mean(logp - old, a, mask, low=low, high=high)
        case "compute_policy_loss_dppo_tv":
            return lambda logp: clip.total_variation(token_ratio(logp, old), logp, old, a, low=low, high=high, cap=cap)
        case "compute_policy_loss_dppo_kl":
            return lambda logp: clip.divergence(token_ratio(logp, old), logp, old, a, low=low, high=high, cap=cap)
        case "compute_policy_loss_gpg":
            return lambda logp: clip.score_function(logp, a)
    raise KeyError(name)


FORCED = {
    "compute_policy_loss_gspo": "seq-mean-token-mean",
    "compute_policy_loss_sapo": "seq-mean-token-mean",
    "compute_policy_loss_geo_mean": "seq-mean-token-mean",
}
"""Aggregations that verl fixes whatever is configured."""


def policy_loss_verl(case: Case) -> Computed:
    name, mask = case.ref.partition(":")[2], case["response_mask"].bool()
    old, logp, a = case["old_log_prob"], case["log_prob"], case["advantages"]
    surrogate = verl_surrogate(name, dict(case.params), old, a, mask)
    weight = case["rollout_is_weights"] if "rollout_is_weights" in case.inputs else torch.ones_like(old)
    computed: Computed = {}
    modes: dict[str, str] = {FORCED.get(name) or case.params.get("loss_agg_mode", ""): ""}
    if "micro_batches" in case.params:
        modes = {key.rpartition(".")[0]: f"{key.rpartition('.')[0]}." for key in case.outputs if key.endswith(".loss")}
    for mode, prefix in modes.items():
        loss, gradient = evaluate(
            logp, lambda x, mode=mode: reduced(weight * surrogate(x), mask, aggregation(mode, mask))
        )
        computed |= {f"{prefix}loss": loss, f"{prefix}grad_logp": gradient}
    if "loss_mat" in case.outputs:
        computed["loss_mat"] = weight * surrogate(logp)
    return computed


def edge_cases(case: Case) -> Computed:
    if case.ref.endswith("compute_grpo_outcome_advantage"):
        outcome = torch.full((case.params["group_size"],), case.params["reward"], dtype=case["advantages"].dtype)
        group = torch.zeros(len(outcome), dtype=torch.int64)
        a = advantage.group_std(advantage.group_mean(outcome, group)[:, None], outcome, group)
        return {"advantages": a.expand(case["advantages"].shape)}
    if case.ref.endswith("kl_penalty"):
        return kl_case(case, case["log_ratio_theta_minus_ref"], torch.zeros_like(case["kl"]))
    name = case.ref.partition(":")[2]
    args = {"old": "old_log_prob", "logp": "log_prob", "adv": "advantages", "mask": "response_mask"}
    stored = {"old": "old_logp", "logp": "logp", "adv": "adv", "mask": "mask"}
    found = {key: case[args[key] if args[key] in case.inputs else stored[key]] for key in args}
    mask = found["mask"].bool()
    surrogate = verl_surrogate(name, dict(case.params), found["old"], found["adv"], mask)
    mode: str = FORCED.get(name) or case.params["loss_agg_mode"]
    loss, gradient = evaluate(found["logp"], lambda x: reduced(surrogate(x), mask, aggregation(mode, mask)))
    return {"loss": loss, "grad_logp": gradient}


def nemo_clipped_pg(case: Case) -> Computed:
    p, mask = case.params, case["token_mask"].bool()
    if p["sample_mask"].startswith("row "):
        mask = mask & (torch.arange(len(mask)) != int(p["sample_mask"].split()[1]))[:, None]
    old, rollout, ref = case["prev_logprobs"], case["generation_logprobs"], case["reference_policy_logprobs"]
    a, correct = case["advantages"], case["rewards"] > 0
    count = mask.any(1).sum().double()
    # it adds 1e-8 to the number of responses as well
    reduction = reduce.token_mean if p["token_level_loss"] else lambda m: seq_token_mean(m) * count / (count + 1e-8)
    level = "sequence" if p["sequence_level_importance_ratios"] else "token"
    weight = torch.ones_like(old)
    if p["use_importance_sampling_correction"]:
        high, low = p["truncated_importance_sampling_ratio"], p["truncated_importance_sampling_ratio_min"]
        match p["truncated_importance_sampling_type"]:
            case "tis":
                weight = correction.truncate(old, rollout, mask, low=low or 0.0, high=high, level=level)
            case "icepop":
                weight = correction.band(old, rollout, mask, low=low, high=high, level=level)
            case "seq-mask-tis":
                kept = responses.geometric_mask(old, rollout, mask, low=low, high=high)
                weight = correction.importance(old, rollout, mask, level=level) * kept
            case None:
                weight = correction.importance(old, rollout, mask, level=level)

    def surrogate(logp: Tensor) -> Tensor:
        low, high = p["ratio_clip_min"], p["ratio_clip_max"]
        if p["disable_ppo_ratio"]:
            return clip.score_function(logp, a)
        if p["force_on_policy_ratio"]:
            return clip.none(ratio.none(logp).exp(), a)
        rho = sequence_ratio(logp, old, mask) if level == "sequence" else token_ratio(logp, old)
        if p["use_cispo"]:
            return clip.truncated_ratio(rho, logp, a, low=low, high=high)
        return clip.ppo(rho, a, low=low, high=high, dual=p["ratio_clip_c"])

    def loss_of(logp: Tensor) -> Tensor:
        loss = reduced(weight * surrogate(logp), mask, reduction)
        coef = 0.0 if p["use_kl_in_reward"] else p["reference_policy_kl_penalty"]
        if coef:
            x = within(logp - ref, p["kl_input_clamp_value"])
            sampled = rollout if p["use_on_policy_kl_approximation"] else logp.detach()
            value = kl.importance_weighted(estimate(p["reference_policy_kl_type"], x, None), logp, sampled)
            loss = loss + coef * reduced(within(value, p["kl_output_clamp_value"]), mask, reduction)
        if p["positive_example_nll_weight"]:
            chosen = auxiliary.positive_nll_set(correct, mask)
            nll = auxiliary.positive_nll(logp, correct, coef=p["positive_example_nll_weight"])
            loss = loss + reduced(nll, chosen, reduce.token_mean)
        return loss

    loss, gradient = evaluate(case["next_token_logprobs"], loss_of)
    return {"loss": loss, "grad_logp": gradient}


def within(value: Tensor, bound: float | None) -> Tensor:
    return value if bound is None else value.clamp(-bound, bound)


def estimate(name: str, x: Tensor, output_clamp: float | None) -> Tensor:
    match name.removesuffix("+"):
        case "k1":
            return kl.k1(x)
        case "abs":
            return kl.absolute(x)
        case "k2":
            return kl.k2(x)
        case "k3" | "low_var_kl":
            return kl.k3(x, output_clamp=output_clamp)
    raise KeyError(name)


CLAMPED = {
    "verl": ("k3", "k3+", "low_var_kl"),
    "skyrl": ("k3",),
    "slime": ("low_var_kl",),
    "nemo": ("k1", "k2", "k3"),
    "areal": ("k1", "k2", "k3"),
}
"""Estimators whose input (+-20, unless a case says otherwise) and output (10, importance weight included) a repository
clamps."""


def kl_case(case: Case, logp: Tensor, ref: Tensor) -> Computed:
    p, repository = case.params, case.ref.partition(":")[0]
    name = next(
        p[key] for key in ("kl_penalty", "kl_loss_type", "kl_type", "kl_estimator", "kl_estimator_type") if key in p
    )
    mask = case["mask"].bool() if "mask" in case.inputs else torch.ones_like(logp, dtype=torch.bool)
    clamped = name in CLAMPED.get(repository, ()) and p.get("apply_clamp", True)
    inner = p.get("input_clamp_value", 20.0) if clamped else None
    outer = p.get("output_clamp_value", 10.0) if clamped else None

    def value_of(x: Tensor) -> Tensor:
        difference = within(x - ref, inner)
        weighted = "importance_ratio" in p or p.get("weights", "plain") != "plain"
        value = estimate(name, difference, None if weighted else outer)
        if name.endswith("+"):
            value = kl.with_k2_gradient(value, x - ref)
        weights = p.get("weights", "plain")
        if "importance_ratio" in p or weights == "is_old":
            value = kl.importance_weighted(value, x, case["old_logp"])
        elif weights == "onpolicy_score":
            value = kl.importance_weighted(value, x, x.detach())
        return within(value, outer) if weighted else value

    computed: Computed = {"kl": value_of(logp)}
    if repository == "skyrl":
        computed["kl"] = value_of(logp) * case["loss_mask"]
    if "grad_logp" in case.outputs:
        computed["grad_logp"] = evaluate(logp, lambda x: (value_of(x) * mask).sum())[1]
    return computed


def kl_estimators(case: Case) -> Computed:
    first = "logprob" if "logprob" in case.inputs else "log_probs"
    second = "ref_logprob" if "ref_logprob" in case.inputs else "log_probs_base"
    return kl_case(case, case[first], case[second])


def logits(case: Case) -> Computed:
    scores = case["logits"]
    targets = case["labels" if "labels" in case.inputs else "tokens"]
    shape, flat = targets.shape, scores.reshape(-1, scores.shape[-1])
    if "keep" in case.outputs:
        kept = case["keep"].reshape(flat.shape).scatter(1, targets.reshape(-1, 1), True)
        leaf = flat.clone().requires_grad_()
        logp, _ = plain.logp_entropy(leaf.masked_fill(~kept, -math.inf), targets.flatten())
        upstream = (case["adv"] * case["mask"]).flatten()
        (gradient,) = torch.autograd.grad((logp * upstream).sum(), leaf)
        _, entropy = plain.logp_entropy(flat, targets.flatten())
        return {"logp": logp.view(shape), "entropy": entropy.view(shape), "grad_logits": gradient.view(scores.shape)}
    temperature = case.params.get("temperature", 1.0)
    leaf = flat.clone().requires_grad_()
    logp, entropy = plain.logp_entropy(leaf, targets.flatten(), temperature)
    computed: Computed = {"logp": logp.view(shape), "entropy": entropy.view(shape)}
    if "sum_p2" in case.outputs:
        computed["sum_p2"] = plain.moments(flat, targets.flatten()).sum_p2.view(shape)
        for name, value, upstream in (
            ("grad_from_logp", logp, (case["adv"] * case["mask"]).flatten()),
            ("grad_from_entropy", entropy, (0.3 * case["mask"]).flatten()),
        ):
            (gradient,) = torch.autograd.grad((value * upstream).sum(), leaf, retain_graph=True)
            computed[name] = gradient.view(scores.shape)
    return computed


def rollout_correction(case: Case) -> Computed:
    p, mask = case.params, case["response_mask"].bool()
    old, rollout = case["old_logp"], case["rollout_logp"]
    if "rollout_is" in p:
        bounds = [float(x) for x in str(p["rollout_is_threshold"]).split("_")]
        keys = {"level": p["rollout_is"], "normalize": p["rollout_is_batch_normalize"]}
        if len(bounds) == 2:
            weight = correction.band(old, rollout, mask, low=bounds[0], high=bounds[1], **keys)
        else:
            weight = correction.truncate(old, rollout, mask, high=bounds[0], **keys)
        return {"weights": weight * mask}
    kept = torch.ones_like(old)
    names, thresholds = p["rollout_rs"].split(","), str(p["rollout_rs_threshold"]).split(",")
    if len(thresholds) == 1:  # one for all
        thresholds *= len(names)
    for name, threshold in zip(names, thresholds, strict=True):
        level, _, statistic = name.rpartition("_")
        over: Any = {"token": "token", "seq_sum": "sum", "seq_mean": "mean", "seq_max": "max"}[level]
        high, low = float(threshold.rpartition("_")[2]), None
        if statistic == "k1":  # bounds of a ratio, for its logarithm
            low = math.log(float(threshold.partition("_")[0]) if "_" in threshold else 1 / high)
            high = math.log(high)
        kept = kept * correction.reject(
            old, rollout, mask, statistic=statistic, over=over, low=low, high=high, weigh=False
        )
    return {"kept_mask": kept * mask, "masked_fraction": 1 - selection.mean(kept, mask)}


def steer(case: Case) -> Computed:
    p = case.params
    if "dH_per_eta" in case.outputs:
        scores, targets, a = case["logits"], case["actions"], case["advantages"]
        flat = plain.moments(scores.reshape(-1, scores.shape[-1]), targets.flatten())
        found = [value.view(targets.shape) for value in flat]
        change = tokens.exact_entropy_change(found[0], case["old_logp"], found[1], found[2], found[3], a)
        return {"dH_per_eta": change, "sum_p2": found[2], "sum_p2_logp": found[3]}
    mask, a = case["response_mask"].bool(), case["advantages"].float()
    old, logp, entropy = (case[name].float() for name in ("old_log_prob", "log_prob", "entropys"))
    weight = tokens.entropy_change(
        logp,
        old,
        entropy,
        a,
        mask,
        map="linear" if p["linear"] else "exponential",
        min=p["token_weight_min"],
        max=p["token_weight_max"],
    )
    surrogate = lambda x: clip.ppo(  # noqa: E731
        token_ratio(x, old), a, low=p["cliprange_low"], high=p["cliprange_high"], dual=p["clip_ratio_c"]
    )
    loss, gradient = evaluate(logp, lambda x: reduced(weight * surrogate(x), mask, reduce.token_mean))
    return {"loss": loss, "grad_logp": gradient, "token_weights": weight * mask}


def areal_decoupled(case: Case) -> Computed:
    p = case.params
    if "current_version" in p:
        versions = case["versions"]
        lag = torch.where(versions >= 0, p["current_version"] - versions, 0)
        return {"loglinear": ratio.interpolated(case["logprobs"], case["old_logp"], lag)}
    if "m2_threshold" in p:
        mask = case["loss_mask"].bool()
        kept = correction.second_moment(case["prox_logp"], case["old_logp"], mask, threshold=p["m2_threshold"]) * mask
        return {"kept": kept.bool(), "num": kept.sum()}
    if "m2_threshold" not in p and "eps_clip" not in p:
        return value_loss(case)
    mask, a = case["loss_mask"].bool(), case["advantages"]
    prox, rollout = case["proximal_logprobs"], case["old_logprobs"]
    weight = torch.ones_like(prox)
    computed: Computed = {}
    rule = p["rejection_sampling"]
    if rule is not None:
        sequence = rule["level"] == "sequence"
        over = rule["agg"] if sequence else "token"
        statistic = rule["metric"].removeprefix("kl_")
        if rule["action"] == "mask":
            keys = {"over": over, "low": rule["lower"], "high": rule["upper"]}
            if statistic == "ratio":
                weight = correction.reject(prox, rollout, mask, statistic="ratio", **keys)
                inside = correction.reject(prox, rollout, mask, statistic="ratio", weigh=False, **keys)
            else:  # its divergences are from the learner to the engine, ours and verl's the other way
                inside = correction.reject(rollout, prox, mask, statistic=statistic, weigh=False, **keys)
                weight = correction.importance(prox, rollout, mask) * inside
            computed["kept_mask"] = inside.bool() & mask
        else:
            low = rule["lower"] or 0.0
            if sequence:
                mean = ((prox - rollout) * mask).sum(1, keepdim=True) / mask.sum(1, keepdim=True).clamp_min(1)
                weight = mean.exp().clamp(low, rule["upper"]).expand_as(prox)
            else:
                weight = correction.truncate(prox, rollout, mask, low=low, high=rule["upper"])
            computed["kept_mask"] = mask
        computed["behave_weight"] = weight * mask
    kept = computed.get("kept_mask", mask)
    assert isinstance(kept, Tensor)

    level = p.get("importance_sampling_level", "token")
    if level == "sequence":
        # it differentiates through the mean of the log ratios, which gives every token the mean weight of its response
        count = kept.sum(1, keepdim=True).clamp_min(1)
        weight = kept * (weight * kept).sum(1, keepdim=True) / count
        a = (a * kept).sum(1, keepdim=True) / count

    def surrogate(logp: Tensor) -> Tensor:
        rho = sequence_ratio(logp, prox, kept) if level == "sequence" else token_ratio(logp, prox)
        high = p["eps_clip"] if p["eps_clip_higher"] is None else p["eps_clip_higher"]
        return clip.ppo(rho, a, low=p["eps_clip"], high=high, dual=p.get("c_clip"))

    loss, gradient = evaluate(case["logprobs"], lambda x: reduced(weight * surrogate(x), mask, reduce.token_mean))
    return computed | {"loss": loss, "grad_logp": gradient}


def value_loss(case: Case) -> Computed:
    p, repository = case.params, case.ref.partition(":")[0]
    values, old, returns, mask = {
        "areal": ("value", "old_value", "target_value", "loss_mask"),
        "verl": ("vpreds", "values", "returns", "response_mask"),
        "nemo": ("values", "old_values", "returns", "mask"),
    }[repository]
    bound = p.get("value_eps_clip", p.get("cliprange_value", p.get("cliprange")))
    shape: Any = {"mse": "squared", "huber": "huber"}[p.get("loss_fn_type", "mse")]
    kept = case[mask].bool()
    delta = p.get("huber_delta", 10.0)

    def loss_of(x: Tensor) -> Tensor:
        per_token = critic.clipped(x, case[old], case[returns], clip=bound, loss=shape, delta=delta)
        return reduced(per_token, kept, reduce.token_mean)

    loss, gradient = evaluate(case[values], loss_of)
    return {"loss": loss, "grad_value": gradient}
