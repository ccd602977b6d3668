"""Golden cases of whole losses beyond one surrogate: trl, covariance methods, single papers."""

import math
from typing import Any

import torch
from golden import Case, Computed, load
from golden_losses import evaluate, reduced, sequence_ratio, token_ratio
from torch import Tensor

from isentrope.learner.objective import selection
from isentrope.learner.objective.stages import (
    advantage,
    auxiliary,
    clip,
    correction,
    kl,
    ratio,
    reduce,
    responses,
    tokens,
)


def trl_grpo(case: Case) -> Computed:
    name = case.ref.partition(":")[2]
    if name == "GRPOTrainer.get_high_entropy_mask":
        mask = case.shared("mask").bool()
        kept = tokens.top_entropy(case["entropies"].float(), mask, keep=1 - case.params["threshold_arg"]).bool() & mask
        threshold = selection.quantile(case["entropies"].float(), mask, case.params["threshold_arg"])
        return {"mask": kept, "num": kept.sum(), "threshold": threshold}
    if name == "GRPOTrainer.get_off_policy_mask":
        logp, mask = case["per_token_logps"], case["mask"].bool()
        a = case["advantages"][:, None].expand_as(logp)
        keep = responses.sequence_divergence(
            logp, case["sampling_per_token_logps"], a, mask, threshold=case.params["off_policy_threshold"]
        )
        return {"keep": keep[:, :1]}
    if name == "compute_opsm_mask":
        logp, mask = case["full_log_probs"], case["loss_masks"].bool()
        keep = responses.sequence_divergence(
            logp, case["full_old_log_probs"], case["advantages"], mask, threshold=case.params["opsm_delta"]
        )
        return {"keep_per_valid_token": keep[mask], "masked_sequences": (~keep & mask).any(1).sum()}
    return trl_loss(case)


GATES = ("positive", "negative")


def trl_loss(case: Case) -> Computed:
    p, mask = case.params, case["completion_mask"].bool()
    old, rollout, ref = (
        case[name] for name in ("old_per_token_logps", "sampling_per_token_logps", "ref_per_token_logps")
    )
    a = case["advantages"][:, None].expand_as(old)
    kind, sequence = p["loss_type"], p.get("importance_sampling_level") == "sequence"
    low, high = p["epsilon_low"], p["epsilon_high"]
    uncertain = torch.ones_like(old)
    if "top_entropy_quantile" in p:
        uncertain = uncertain * tokens.top_entropy(case["entropies"].float(), mask, keep=p["top_entropy_quantile"])
    weight = uncertain
    if "off_policy_mask_threshold" in p:
        threshold = p["off_policy_mask_threshold"]
        weight = weight * responses.sequence_divergence(case["per_token_logps"], rollout, a, mask, threshold=threshold)
    if p.get("vllm_importance_sampling_correction"):
        weight = weight * correction.truncate(old, rollout, mask, high=2.0)
    reduction = {
        "grpo": reduce.seq_token_mean,
        "sapo": reduce.seq_token_mean,
        "dr_grpo": lambda m: reduce.seq_sum_constant(m, constant=p["max_completion_length"]),
        "luspo": reduce.seq_sum,
    }.get(kind, reduce.token_mean)

    def loss_of(logp: Tensor) -> Tensor:
        rho = sequence_ratio(logp, old, mask) if sequence else token_ratio(logp, old)
        if kind == "cispo":
            per_token = clip.truncated_ratio(rho, logp, a, low=1.0, high=high - 1)
        elif kind == "sapo":
            taus = {sign: p[f"sapo_temperature_{sign[:3]}"] for sign in GATES if f"sapo_temperature_{sign[:3]}" in p}
            per_token = clip.soft_gate(rho, a, **taus)
        else:
            per_token = clip.ppo(rho, a, low=low, high=high, dual=p.get("delta"))
        loss = reduced(weight * per_token, mask, reduction)
        if "beta" in p:
            value = kl.k3(logp - ref)
            if p.get("use_bias_correction_kl"):
                value = kl.importance_weighted(value, logp, old)
            loss = loss + p["beta"] * reduced(value, mask, reduction)
        return loss

    loss, gradient = evaluate(case["per_token_logps"], loss_of)
    if p.get("_entropy_bonus_enabled"):
        # except for losses over a count of all tokens, trl averages entropy over the tokens that were selected by it
        over = mask if kind in ("dapo", "cispo") else mask & (uncertain != 0)
        loss = loss - p["entropy_coef"] * reduced(case["entropies"] * uncertain, over, reduce.token_mean)
    return {"loss": loss, "grad_logp": gradient}


def policy_loss_cov(case: Case) -> Computed:
    name = case.ref.partition(":")[2]
    p, mask = case.params, case["response_mask"].bool()
    old, logp, a = case["old_log_prob"], case["log_prob"], case["advantages"]
    if name == "compute_policy_loss_clip_cov":
        return band_covariance(case, old, logp, a, mask)
    if name.startswith("compute_policy_loss_low_entropy"):
        return low_entropy(case, old, logp, a, mask)
    share = p["k_percent"] / 100 if "k_percent" in p else p[next(k for k in ("kl_cov_ratio", "kl_cov_frac") if k in p)]
    chosen = tokens.top_covariance(logp, a, mask, share=share)

    def surrogate(x: Tensor, coef: float) -> Tensor:
        return clip.none(token_ratio(x, old), a) + coef * kl.absolute(x - old) * chosen

    coef = p["ppo_kl_coef"]
    loss, gradient = evaluate(logp, lambda x: reduced(surrogate(x, coef), mask, reduce.token_mean))
    covariance = selection.covariance(logp, a, mask)
    plain = evaluate(logp, lambda x: reduced(surrogate(x, 0.0), mask, reduce.token_mean))[1]
    computed: Computed = {
        "loss": loss,
        "grad_logp": gradient,
        "loss_mat": surrogate(logp, coef),
        "cov": covariance,
        "selected": chosen,
        "num_selected": chosen.sum(),
        "kth_cov": covariance[chosen].min(),
        "grad_logp_coef0": plain,
    }
    return {key: value for key, value in computed.items() if key in case.outputs}


def band_covariance(case: Case, old: Tensor, logp: Tensor, a: Tensor, mask: Tensor) -> Computed:
    """The loss given the reference's draw, and the counts of a draw of ours."""
    p = case.params
    drawn = case
    if "selected" not in case.outputs:  # the authors' code, with the draw of verl's case of the same inputs
        drawn = next(
            c
            for c in load(case.family, case.folder)
            if "selected" in c.outputs and (c.inputs, c.params) == (case.inputs, case.params)
        )
    given = drawn["selected"]

    def surrogate(x: Tensor) -> Tensor:
        return clip.ppo(token_ratio(x, old), a, low=p["clip_low"], high=p["clip_high"])

    loss, gradient = evaluate(logp, lambda x: reduced(~given * surrogate(x), mask, reduce.token_mean))
    computed: Computed = {"loss": loss}
    if drawn is not case:
        return computed
    leaf = logp.clone().requires_grad_()
    (moved,) = torch.autograd.grad(surrogate(leaf).sum(), leaf)
    clipped = (moved == 0) & (a != 0)
    uniform = torch.rand(logp.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    keys = {"low": p["lb"], "high": p["ub"]}
    ours = tokens.band_cov(logp, a, mask, clipped, uniform, share=p["ratio"], **keys) == 0
    every = tokens.band_cov(logp, a, mask, clipped, uniform, share=1.0, **keys) == 0
    assert not (ours & ~every).any()
    return computed | {
        "grad_logp": gradient,
        "loss_without_selection": reduced(surrogate(logp), mask, reduce.token_mean),
        "cov": selection.covariance(logp, a, mask),
        "candidates": every,
        "num_selected": ours.sum(),
        "clip_num": float(tokens.selected_count(mask, p["ratio"])),
    }


def low_entropy(case: Case, old: Tensor, logp: Tensor, a: Tensor, mask: Tensor) -> Computed:
    p, first_release = case.params, case.ref.endswith("kl_cov")
    entropy = case["entropy"]
    keys = {"top": 1.0, "bottom": 1.0, "rest": 1.0} if first_release else {}
    weight = tokens.low_entropy_covariance(logp, entropy, a, mask, share=p["kl_cov_ratio"], **keys)
    counted = mask & (weight > 0) if first_release else mask  # the first release drops the others from the loss as well

    def loss_of(x: Tensor) -> Tensor:
        per_token = clip.none(token_ratio(x, old), a) + p["ppo_kl_coef"] * weight * kl.absolute(x - old)
        return reduced(per_token, counted, reduce.token_mean)

    loss, gradient = evaluate(logp, loss_of)
    return {"loss": loss, "grad_logp": gradient}


def policy_loss_other(case: Case) -> Computed:
    repository = case.ref.partition(":")[0]
    if repository == "luffy":
        return demonstrations(case)
    if repository == "rlvr":
        return signed_loss(case)
    if repository == "slime":
        return slime(case)
    p = case.params
    if repository == "prime":
        logp, rollout, a = case["trainer_logprobs"], case["inference_logprobs"], case["advantages"] * p["adv_tau"]
        mask = case["loss_mask"].bool()

        def trust_region(x: Tensor) -> Tensor:
            change = (x.exp() - rollout.exp()).detach()
            kept = torch.where(a > 0, change <= p["dppo_mask_high"], change >= -p["dppo_mask_low"])
            policy = clip.none(ratio.token(x, rollout).exp(), a) * kept
            return reduced(
                policy + 2 * p["kl_tau"] * kl.k2(x - rollout), mask, lambda m: reduce.sum_constant(m, constant=1)
            )

        loss, gradient = evaluate(logp, trust_region)
        return {"loss_sum": loss, "grad_logp": gradient}
    old, logp, a, mask = case["old_log_prob"], case["log_prob"], case["advantages"], case["response_mask"].bool()
    likely = mask & (logp > math.log(p["high_prob_thresh"]))

    def pushed(x: Tensor) -> Tensor:
        rho = token_ratio(x, old)
        policy = clip.ppo(rho, a, low=p["clip_ratio"], high=p["clip_ratio"], dual=p["clip_ratio_c"])
        push = auxiliary.high_prob_push(rho, x, a, coef=p["control_alpha"], threshold=p["high_prob_thresh"])
        count = likely.sum().double()
        own = reduced(push, likely, reduce.token_mean) * count / (count + 1e-8)  # it adds 1e-8 to the count
        return reduced(policy, mask, reduce.token_mean) + own

    loss, gradient = evaluate(logp, pushed)
    return {"loss": loss, "grad_logp": gradient, "prob_mask": likely}


def demonstrations(case: Case) -> Computed:
    p, mask = case.params, case["eos_mask"].bool()
    old, logp, a, shown = case["old_log_prob"], case["log_prob"], case["advantages"], case["prefix_mask"]
    reshape = p["off_policy_reshape"]
    keys: dict[str, Any] = {"low": p.get("off_min_clip", 0.0), "high": p.get("off_max_clip", 1.0)}
    if reshape.startswith("p_div_p_"):
        keys |= {"shape": "saturating", "gamma": float(reshape.rpartition("_")[2])}
    else:
        powers = {"pow": p.get("off_policy_reshape_pow_exp"), "square_root": 0.5}
        keys |= {"shape": "power", "power": powers[reshape]} if reshape in powers else {"shape": "linear"}

    def loss_of(x: Tensor) -> Tensor:
        rho, high = token_ratio(x, old), max(p.get("clip_upper_bound", 100.0), 1 + p["cliprange"]) - 1
        on_policy = clip.none(rho, a) if p["loss_remove_clip"] else clip.ppo(rho, a, low=p["cliprange"], high=high)
        per_token = on_policy * ~shown + auxiliary.shaped_demonstration(x, a, shown, **keys)
        if p.get("loss_remove_token_mean"):
            return reduced(per_token, mask, lambda m: reduce.sum_constant(m, constant=m.shape[1]))
        return reduced(per_token, mask, reduce.token_mean)

    loss, gradient = evaluate(logp, loss_of)
    return {"loss": loss, "grad_logp": gradient}


def signed_loss(case: Case) -> Computed:
    """With a weight for the tokens of correct responses."""
    p, mask = case.params, case["eos_mask"].bool()
    old, logp, a = case["old_log_prob"], case["log_prob"], case["advantages"]
    weight = torch.ones_like(a)
    if p["positive_learning_weight"] is not None:
        correct = (case["token_level_scores"].sum(1) == 1)[:, None]
        weight = torch.where(correct, p["positive_learning_weight"] * weight, weight)

    def loss_of(x: Tensor) -> Tensor:
        per_token = clip.ppo(token_ratio(x, old), a, low=p["cliprange"], high=p["cliprange"])
        return reduced(weight * per_token, mask, reduce.token_mean)

    loss, gradient = evaluate(logp, loss_of)
    return {"loss": loss, "grad_logp": gradient}


def slime(case: Case) -> Computed:
    name, p, mask = case.ref.partition(":")[2], case.params, case["mask"].bool()
    logp, old = case["logp"], case["old_logp"]
    if name == "compute_gspo_kl":
        return {"seq_kl_per_valid_token": -ratio.sequence(logp, old, mask)[mask]}
    a = case["advantages"]

    def surrogate(x: Tensor) -> Tensor:
        if name == "compute_cispo_loss":
            return clip.truncated_ratio(token_ratio(x, old), x, a, low=p["eps_clip"], high=p["eps_clip_high"])
        return clip.ppo(token_ratio(x, old), a, low=p["eps_clip"], high=p["eps_clip_high"], dual=p["eps_clip_c"])

    total = evaluate(logp, lambda x: (surrogate(x) * mask).sum())[1]
    return {"per_token": surrogate(logp), "grad_logp_of_masked_sum": total}


def derived_losses(case: Case) -> Computed:
    p, mask, logp = case.params, case["mask"].bool(), case["logp"]
    if "unbiased_kl" in case.ref or "k3" in case.ref:
        old, ref = case["old_logp"], case["ref_logp"]

        def held(x: Tensor) -> Tensor:
            return reduced(kl.importance_weighted(kl.k3(x - ref), x, old), mask, reduce.token_mean)

        loss, gradient = evaluate(logp, held)
        return {"loss": loss, "grad_logp": gradient, "grad_closed_form": gradient}
    if "weight" in p:
        weight = tokens.positive_weight(case["advantages"], value=p["weight"])

        def weighted(x: Tensor) -> Tensor:
            rho = token_ratio(x, case["old_logp"])
            per_token = clip.ppo(rho, case["advantages"], low=p["eps_low"], high=p["eps_high"])
            return reduced(weight * per_token, mask, reduce.token_mean)

        loss, gradient = evaluate(logp, weighted)
        return {"loss": loss, "grad_logp": gradient}
    outcome = case["reward"]
    if "group" not in case.inputs:
        chosen = auxiliary.positive_nll_set(outcome > 0, mask)

        def likelihood(x: Tensor) -> Tensor:
            return reduced(auxiliary.positive_nll(x, outcome > 0, coef=1.0), chosen, reduce.token_mean)

        loss, gradient = evaluate(logp, likelihood)
        return {"loss": loss, "grad_logp": gradient}
    centred = advantage.group_mean(outcome, case["group"])
    a = centred[:, None] * mask
    if "beta" in p:
        weight = tokens.step_labels(outcome > 0, case["step_correct"], beta=p["beta"])

        def behaviour_held(x: Tensor) -> Tensor:
            term = p["tau"] * kl.sequence_k2(x - case["ref_logp"], mask)
            return reduced(weight * clip.score_function(x, a) + term, mask, reduce.seq_token_mean)

        loss, gradient = evaluate(logp, behaviour_held)
        return {"adv": centred, "token_weight": weight * mask, "loss": loss, "grad_logp": gradient}
    weight = correction.truncate_current(logp, case["old_logp"], case["rollout_logp"], high=p["tis_cap"])

    def first_order(x: Tensor) -> Tensor:
        per_token = clip.mask(token_ratio(x, case["old_logp"]), x, a, low=p["eps_low"], high=p["eps_high"])
        return reduced(weight * per_token, mask, reduce.seq_sum)

    loss, gradient = evaluate(logp, first_order)
    return {"adv": centred, "is_weight": weight, "loss": loss, "grad_logp": gradient}
