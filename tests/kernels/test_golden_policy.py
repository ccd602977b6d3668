"""Published implementations' numbers through the fused kernels in float32 and through their plain twins in float64.

The vectors give log-probabilities; a kernel takes logits. A vocabulary of two, the target and everything else, has the
logits [logp, log(1 - p)], and a gradient g by logp becomes g (1 - p) and -g (1 - p).
"""

import math
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass

import golden_scope as scope
import pytest
import torch
from golden import Case, load
from golden_losses import FORCED, NO_DUAL, aggregation
from golden_scope import Rule
from kernel_truth import relative
from torch import Tensor

from isentrope.kernels import plain, select
from isentrope.kernels.fused import fused_policy_loss, logp_entropy
from isentrope.kernels.policy import LossRules, TokenInputs, coefficients

FUSED, PLAIN = 2e-5, 1e-9
VANILLA, KL_COV, CLIP_COV = (f"compute_policy_loss_{name}" for name in ("vanilla", "kl_cov", "clip_cov"))


def _other_than(*symbols: str) -> "Rule":
    return Rule(
        "",
        lambda case: case.ref.partition(":")[2] not in symbols,
        "not a clipped ratio of one token with one verdict: the learner's generic path computes it",
    )


BEYOND_THE_RULES = {
    "policy_loss_verl": _other_than(VANILLA),
    "edge_cases": _other_than(VANILLA),
    "policy_loss_cov": _other_than(KL_COV, CLIP_COV),
}
POLICY = [
    case
    for family, rule in BEYOND_THE_RULES.items()
    for case in load(family)
    if scope.rule_for(case) is None and not rule.applies(case)
]


@dataclass(frozen=True)
class Problem:
    """One loss of a case, all [B, T]; weight includes the denominators. selected: the reference's own draw."""

    logp: Tensor
    old: Tensor
    advantage: Tensor
    mask: Tensor
    weight: Tensor
    rules: LossRules
    selected: Tensor | None
    normalizer: float
    loss: float
    gradient: Tensor | None


def problems(case: Case) -> Iterator[Problem]:
    name, p = case.ref.partition(":")[2], case.params
    names = {"old": "old_log_prob", "logp": "log_prob", "adv": "advantages", "mask": "response_mask"}
    stored = {"old": "old_logp", "logp": "logp", "adv": "adv", "mask": "mask"}
    given = {key: case[names[key] if names[key] in case.inputs else stored[key]] for key in names}
    mask, advantage = given["mask"].bool(), given["adv"].expand_as(given["logp"])
    weight = case["rollout_is_weights"] if "rollout_is_weights" in case.inputs else torch.ones_like(given["logp"])
    low, high = p.get("clip_ratio_low", p.get("clip_ratio", 0.2)), p.get("clip_ratio_high", p.get("clip_ratio", 0.2))
    dual = p.get("clip_ratio_c", 3.0)
    rules, selected = LossRules(clip_low=low, clip_high=high, clip_dual=None if dual == NO_DUAL else dual), None
    if name == KL_COV:
        share = p["kl_cov_ratio"] if "kl_cov_ratio" in p else p["k_percent"] / 100
        rules = LossRules(
            clip_low=None, clip_high=None, select="top_cov", action="abs_kl", share=share, kl_coef=p["ppo_kl_coef"]
        )
    elif name == CLIP_COV:
        rules = LossRules(clip_low=p["clip_low"], clip_high=p["clip_high"], select="band_cov", share=p["ratio"])
        selected = _drawn(case)
    modes = {FORCED.get(name) or p.get("loss_agg_mode", "token-mean"): ""}
    if "micro_batches" in p:
        modes = {key.rpartition(".")[0]: f"{key.rpartition('.')[0]}." for key in case.outputs if key.endswith(".loss")}
    for mode, prefix in modes.items():
        factor, normalizer = aggregation(mode, mask)(mask), 1.0
        if name == KL_COV:  # its penalty does not see the weight, only the normalizer
            factor, normalizer = torch.ones_like(factor), float(factor.max())
        gradient = case.expected(f"{prefix}grad_logp") if f"{prefix}grad_logp" in case.outputs else None
        assert gradient is None or isinstance(gradient, Tensor)
        yield Problem(
            given["logp"], given["old"], advantage, mask, weight * factor[:, None].to(weight.dtype), rules, selected,
            normalizer, float(case.expected(f"{prefix}loss")), gradient,
        )  # fmt: skip


def _drawn(case: Case) -> Tensor:
    """The reference's random selection, or that of the case with the same name."""
    if "selected" in case.outputs:
        return case["selected"].bool()
    twin = case.name.replace("clip_cov_em", "clip_cov")
    return next(other for other in load(case.family, case.folder) if other.name == twin)["selected"].bool()


def _comes_from_logits(case: Case) -> bool:
    """Not so: a log-probability above 0, which one made-up input has, and one that equals the old one to the last bit,
    where KL-Cov's gradient is the sign of their difference."""
    return all(
        bool((problem.logp <= 0).all())
        and not (problem.rules.action == "abs_kl" and torch.equal(problem.logp, problem.old))
        for problem in problems(case)
    )


def _smallest_first(
    cases: Iterable[Case], kind: Callable[[Case], Hashable], size: Callable[[Case], int]
) -> list[object]:
    """Return parameters: the smallest case of each kind, and the others under soak; a plain twin computes all."""
    kinds = set[Hashable]()
    made = list[object]()
    for case in sorted(cases, key=size):
        made.append(pytest.param(case, id=case.id, marks=[pytest.mark.soak] if kind(case) in kinds else []))
        kinds.add(kind(case))
    return made


def _rules(case: Case) -> Hashable:
    return case.ref, frozenset(problem.rules for problem in problems(case))


def _tokens(case: Case) -> int:
    return sum(int(problem.mask.sum()) for problem in problems(case))


@pytest.mark.slow
@pytest.mark.parametrize("case", _smallest_first(filter(_comes_from_logits, POLICY), _rules, _tokens))
def test_fused_policy_losses_are_those_of_the_reference(case: Case) -> None:
    for problem in problems(case):
        check_fused(case, problem)


@pytest.mark.parametrize("case", POLICY, ids=lambda case: case.id)
def test_plain_policy_losses_are_those_of_the_reference(case: Case) -> None:
    for problem in problems(case):
        check_plain(case, problem)


def check_fused(case: Case, problem: Problem) -> None:
    """In float32, from logits; of the masked tokens alone, because the interpreter takes 20 ms for each."""
    kept = problem.mask.flatten()
    logp = problem.logp.flatten()[kept].double()
    rest = torch.log(-torch.expm1(logp))
    leaf = torch.stack([logp, rest], dim=1).float().requires_grad_()
    flat = {name: getattr(problem, name).flatten()[kept].float() for name in ("old", "advantage", "weight")}
    selected = None if problem.selected is None else problem.selected.flatten()[kept]
    tokens = TokenInputs(
        advantage=flat["advantage"],
        logp_old=flat["old"],
        mask=torch.ones(len(leaf), dtype=torch.bool),
        weight=flat["weight"],
        normalizer=torch.tensor([problem.normalizer], dtype=torch.float32),
        selected=selected,
    )
    found = fused_policy_loss(leaf * 1, torch.zeros(len(leaf), dtype=torch.int64), tokens, problem.rules)
    found.loss.backward()
    terms = float(found.token_loss.abs().sum())
    assert abs(found.loss.item() - problem.loss) <= FUSED * max(terms, abs(problem.loss)), case.id
    if problem.gradient is not None:
        expected = problem.gradient.flatten()[kept].double() * -torch.expm1(logp)
        assert leaf.grad is not None and relative(leaf.grad, torch.stack([expected, -expected], dim=1)) <= FUSED
    if "selected" in case.outputs:
        assert torch.equal(found.selected, case["selected"].bool().flatten()[kept])


def check_plain(case: Case, problem: Problem) -> None:
    """In the type of the case."""
    chosen = None if problem.selected is None else problem.selected.flatten()
    if problem.rules.select == "top_cov":
        keep = problem.mask.flatten()
        covariance = select.covariance(problem.logp.flatten(), problem.advantage.flatten(), keep)
        chosen = select.top_k_mask(covariance, select.share_of(keep, problem.rules.share), candidates=keep)
    tokens = TokenInputs(
        advantage=problem.advantage.flatten(),
        logp_old=problem.old.flatten(),
        mask=problem.mask.flatten(),
        weight=problem.weight.flatten(),
        normalizer=torch.tensor([problem.normalizer], dtype=problem.logp.dtype),
        selected=chosen,
    )
    loss, by_logp, _ = coefficients(problem.logp.flatten(), torch.zeros_like(tokens.advantage), tokens, problem.rules)
    allowed = max(PLAIN, scope.tolerance(case))
    assert abs(float(loss.sum()) - problem.loss) <= allowed * max(float(loss.abs().sum()), abs(problem.loss)), case.id
    if problem.gradient is not None:
        assert relative(by_logp, problem.gradient.flatten()) <= allowed


@pytest.mark.slow
@pytest.mark.parametrize(
    "case",
    _smallest_first(load("logits"), lambda case: case.name.partition(".")[2], lambda case: case["logits"].numel()),
)
def test_statistics_are_those_of_the_reference(case: Case) -> None:
    scores, targets = case["logits"], case["labels" if "labels" in case.inputs else "tokens"].flatten()
    flat = scores.reshape(-1, scores.shape[-1])
    temperature = case.params.get("temperature", 1.0)
    full, entropy = flat, None
    if "keep" in case.outputs:  # log-probs over the tokens that the sampler kept, entropy over all
        kept = case["keep"].reshape(flat.shape).bool().scatter(1, targets[:, None], True)
        flat = flat.masked_fill(~kept, -math.inf)
        entropy = logp_entropy(full.float(), targets, temperature)[1]
    leaf = flat.float().requires_grad_()
    logp, own_entropy = logp_entropy(leaf * 1, targets, temperature)
    computed = {"logp": logp, "entropy": own_entropy if entropy is None else entropy}
    for name, value in computed.items():
        expected = case[name].flatten()
        assert relative(value, expected) <= FUSED, case.id
        twin = plain.logp_entropy((flat if name == "logp" else full).double(), targets, temperature)
        assert relative(twin[name == "entropy"], expected) <= max(PLAIN, scope.tolerance(case)), case.id
    both = (logp, own_entropy)
    for place, name in enumerate({"grad_from_logp", "grad_from_entropy", "grad_logits"} & case.outputs.keys()):
        if place:  # one call, one backward pass
            leaf = flat.float().requires_grad_()
            both = logp_entropy(leaf * 1, targets, temperature)
        of_entropy = name == "grad_from_entropy"
        upstream = 0.3 * case["mask"] if of_entropy else case["adv"] * case["mask"]
        (gradient,) = torch.autograd.grad((both[of_entropy] * upstream.flatten()).sum(), leaf)
        assert relative(gradient, case[name].reshape(flat.shape)) <= FUSED, case.id


def test_only_what_the_rules_cannot_say_is_left_out() -> None:
    assert len(POLICY) >= 100
