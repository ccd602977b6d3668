"""Which objectives make sense, and in which runs. Every rule is on dimensions and kinds, with its reason and a remedy.

Knows no preset and no file. What would do nothing, or count something twice, is refused; what is merely doubtful is a
warning.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from isentrope.learner.objective.needs import PROVIDED, Need, acts, needs
from isentrope.learner.objective.objective import Objective
from isentrope.learner.objective.schema import Stage

GROUP_BASELINES = {"group_mean", "leave_one_out", "length_weighted", "token_optimal", "best_of_group", "max_likelihood"}
TOKEN_BASELINES = {"returns", "gae", "token_optimal"}
SELECTIONS = {"top_entropy", "top_cov", "band_cov", "entropy_change", "entropy_change_exact"}
NEEDS_ENTROPY = {"top_entropy", "entropy_change", "entropy_change_exact", "low_entropy_cov"}
SCORE_SURROGATES = {"mask", "score_function"}


@dataclass(frozen=True, slots=True)
class RunFacts:
    """What the rules must know of a run. updates: per batch. truncated_sampling: top-p or top-k cut the distribution.
    experts: the model is a mixture of experts. evaluates: there is held-out data, scored at intervals. provided: what
    the run supplies."""

    updates: int = 1
    epochs: int = 1
    on_policy: bool = False
    max_lag: int = 2
    group_size: int = 8
    truncated_sampling: bool = False
    experts: bool = False
    evaluates: bool = True
    provided: frozenset[Need] = PROVIDED

    @property
    def single(self) -> bool:
        """Whether the only update of a batch starts from the policy that log p_old is of: log p equals it."""
        return self.on_policy or self.updates * self.epochs == 1


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing wrong. key: its place below `learner.objective`."""

    key: str
    reason: str
    remedy: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the rules say of an objective in a run."""

    refusals: tuple[Finding, ...]
    warnings: tuple[Finding, ...]


Findings = Iterator[Finding]


def check(objective: Objective, facts: RunFacts) -> Verdict:
    """Everything the rules find."""
    return Verdict(
        tuple(finding for rule in REFUSALS for finding in rule(objective, facts)),
        tuple(finding for rule in WARNINGS for finding in rule(objective, facts)),
    )


def inert(objective: Objective, facts: RunFacts) -> str:
    """Why the objective would do nothing in such a run, or "". A running learner asks again before it goes
    on-policy."""
    return "; ".join(finding.reason for finding in _inert_divergence(objective, facts))


def _kinds(stages: tuple[Stage, ...]) -> set[str]:
    return {stage.kind.name for stage in stages}


def _missing_needs(objective: Objective, facts: RunFacts) -> Findings:
    for need, key in needs(objective).items():
        if need not in facts.provided:
            yield Finding(key, f"needs {need}, which this version cannot supply yet", "choose a method without it")
    if facts.experts and objective.routing != "none" and Need.ROUTING not in facts.provided:
        yield Finding(
            "ratio.routing",
            f"with a mixture of experts needs {Need.ROUTING}, which this version cannot supply yet",
            'set ratio.routing = "none", or train a dense model',
        )
    if facts.truncated_sampling and Need.SAMPLING_MASK not in facts.provided:
        yield Finding(
            "ratio.sampling_mask",
            f"top_p < 1 or top_k > 0 needs {Need.SAMPLING_MASK}, which this version cannot supply yet: the learner's "
            "log-probabilities would be those of another distribution",
            "set sampling.top_p = 1.0 and sampling.top_k = -1",
        )


def _inert_divergence(objective: Objective, facts: RunFacts) -> Findings:
    for place, term in enumerate(objective.kl):
        anchored = term.keys.anchor == "old" and (objective.stats != "rollout" or facts.on_policy)
        if anchored and facts.single and acts(objective, term):
            yield Finding(
                f"kl.{place}",
                "a divergence to the old policy is 0 with one update per batch, and so is its gradient",
                "set learner.updates_per_batch >= 2 and mode async, or choose a method without it",
            )
        if term.estimator.kind.name == "k1" and term.keys.importance == "none" and term.keys.gradient == "own":
            yield Finding(
                f"kl.{place}",
                "the gradient of k1 as a loss has expectation 0: it holds nothing",
                'use k2, or importance = "old"',
            )


def _divergence_replaces_clip(objective: Objective, facts: RunFacts) -> Findings:
    for place, term in enumerate(objective.kl):
        selected = term.keys.anchor == "old" and term.tokens is not None
        if (selected or term.estimator.kind.name == "sequence_k2") and objective.clip.kind.name not in (
            "none",
            "score_function",
        ):
            yield Finding(
                "clip",
                f"the divergence of kl.{place} takes the place of a clip, and there is one: {objective.clip.kind.name}",
                'set clip = "none", or put the method with the divergence last',
            )


def _sequence_ratio(objective: Objective, facts: RunFacts) -> Findings:
    if objective.level.kind.name != "sequence" and objective.clip.kind.name != "geometric_mean":
        return
    varying = [f"tokens.{name}" for name in sorted(_kinds(objective.tokens) & (SELECTIONS | {"step_labels"}))]
    if objective.baseline.kind.name in TOKEN_BASELINES:
        varying.append("advantage.baseline")
    for key in varying:
        yield Finding(
            key,
            "a ratio of whole responses no longer belongs to a loss whose weights differ between tokens",
            'set ratio.level = "token", or drop the token weights',
        )
    if objective.reduce.kind.name != "seq_token_mean":
        yield Finding(
            "reduce",
            f"a ratio of whole responses needs the mean over their tokens, not {objective.reduce.kind.name}",
            'set reduce = "seq_token_mean"',
        )
    if objective.clip.kind.name in ("truncated_ratio", "geometric_mean") and objective.level.kind.name == "sequence":
        yield Finding(
            "ratio.level", f"clip {objective.clip.kind.name} is defined on tokens", 'set ratio.level = "token"'
        )


def _ratio_counted(objective: Objective, facts: RunFacts) -> Findings:
    correction, clip, anchor = (s.kind.name for s in (objective.correction, objective.clip, objective.anchor))
    if anchor == "rollout" and correction != "none":
        yield Finding(
            "correction",
            f"a ratio anchored at `{anchor}` already reaches back to the engine that sampled: counted twice",
            'set ratio.anchor = "old" or correction = "none"',
        )
    of_batch = correction == "second_moment" or objective.correction.params.get("normalize", False)
    if anchor == "interpolated" and of_batch:
        yield Finding(
            "correction",
            "needs all tokens of the batch at once, and an interpolated anchor moves with every micro-batch",
            'set ratio.anchor = "old"',
        )
    if correction == "truncate_current" and clip not in SCORE_SURROGATES:
        yield Finding(
            "correction",
            f"truncate_current holds the current ratio, and so does clip {clip}",
            'set clip = "mask" or correction = "truncate"',
        )
    if objective.level.kind.name == "none" and clip not in ("none", "score_function"):
        yield Finding("clip", f"without a ratio, clip {clip} never acts", 'set clip = "none" or ratio.level = "token"')


def _statistics(objective: Objective, facts: RunFacts) -> Findings:
    if objective.stats != "rollout":
        return
    wanting = _kinds(objective.tokens) | {term.tokens.kind.name for term in objective.kl if term.tokens is not None}
    for kind in sorted(wanting & NEEDS_ENTROPY):
        yield Finding("stats", f'{kind} needs entropies, which stats = "rollout" does not have', 'set stats = "old"')
    fixed = objective.anchor.kind.name != "interpolated"
    if fixed and objective.correction.kind.name not in ("none", "truncate_current"):
        yield Finding(
            "correction",
            'with stats = "rollout" there is no pass of the learner\'s own, and every correction is 1',
            'set stats = "old" or correction = "none"',
        )


def _constant_baseline(objective: Objective, facts: RunFacts) -> Findings:
    if objective.baseline.kind.name != "constant":
        return
    scale = objective.scale.kind.name
    if scale in ("group_std", "leave_one_out_std", "whiten"):
        yield Finding("advantage.scale", f"a constant baseline is not scaled by {scale}", 'set scale = "none"')
    for key in _of_groups(objective):
        yield Finding(key, "acts on group advantages, and the baseline is constant", "drop one of the two")


def _group_outcomes(objective: Objective, facts: RunFacts) -> Findings:
    of_group = objective.baseline.kind.name in GROUP_BASELINES
    filters = _kinds(objective.filter)
    one_sided = filters & {"correct_only", "incorrect_only"}
    if one_sided and of_group:
        yield Finding(
            "filter", "all that is left of a group has one outcome: group advantages are 0", "use a constant baseline"
        )
    if len(one_sided) == 2:
        yield Finding("filter", "correct_only and incorrect_only leave no response", "keep one of them")
    if of_group and facts.group_size == 1:
        yield Finding(
            "advantage.baseline", "a response that is alone in its group has advantage 0", "set group_size >= 2"
        )
    if "mixed_groups" in filters and facts.group_size == 1:
        yield Finding("filter", "a response that is alone in its group is never of two outcomes", "drop mixed_groups")


def _critic(objective: Objective, facts: RunFacts) -> Findings:
    baseline, critic = objective.baseline.kind.name, objective.critic.kind.name
    if baseline == "gae" and critic == "none":
        yield Finding("critic", "the baseline is a critic's, and none is trained", 'set critic = "clipped"')
    if baseline != "gae" and critic != "none":
        yield Finding("critic", f"a critic is trained, but the baseline is {baseline}", 'set critic = "none"')
    if baseline == "gae":
        for key in _of_groups(objective):
            yield Finding(
                key, "is defined with a group baseline, and the baseline is a critic's", "drop one of the two"
            )


def _of_groups(objective: Objective) -> list[str]:
    """Return the places of stages that act on the advantages of a group."""
    found = [f"modulation.{kind}" for kind in sorted(_kinds(objective.modulation))]
    return found + (["reward.unlikeliness"] if "unlikeliness" in _kinds(objective.reward) else [])


def _lengths(objective: Objective, facts: RunFacts) -> Findings:
    rewards = _kinds(objective.reward)
    terms = rewards & {"soft_overlong", "stop_properly"}
    if "not_truncated" in _kinds(objective.filter) and terms:
        yield Finding(
            "filter",
            f"truncated responses are dropped, and {' and '.join(sorted(terms))} should teach from them",
            "keep one",
        )
    if len(terms) == 2:
        yield Finding("reward", "soft_overlong and stop_properly both punish truncated responses", "keep one")


def _on_policy_definition(objective: Objective, facts: RunFacts) -> Findings:
    stale = not facts.on_policy and (facts.updates > 1 or facts.epochs > 1 or facts.max_lag > 0)
    if objective.baseline.kind.name == "length_weighted" and stale:
        yield Finding(
            "advantage.baseline",
            "length_weighted is the optimal baseline of exact on-policy training only",
            'set mode = "on_policy", or updates_per_batch = 1, epochs = 1 and staleness.max_lag = 0',
        )


def _double_divergence(objective: Objective, facts: RunFacts) -> Findings:
    in_loss = any(term.keys.anchor == "ref" and acts(objective, term) for term in objective.kl)
    if in_loss and "kl_penalty" in _kinds(objective.reward):
        yield Finding(
            "reward.kl_penalty", "the divergence to the reference is in the loss already", "keep one of the two"
        )


def _controllers(objective: Objective, facts: RunFacts) -> Findings:
    kinds = _kinds(objective.control)
    of_entropy = sorted(kinds - {"adaptive_kl"})
    if len(of_entropy) > 1:
        yield Finding("control", f"{' and '.join(of_entropy)} steer one quantity, entropy", "keep one of them")
    if of_entropy and objective.entropy.params["coef"] != 0:
        yield Finding("entropy", f"a fixed bonus beside the controller {of_entropy[0]}", "set entropy.coef = 0")
    present = {f"tokens.{k}" for k in _kinds(objective.tokens)} | {f"aux.{k}" for k in _kinds(objective.aux)}
    present |= (
        {f"reward.{k}" for k in _kinds(objective.reward)} | {f"kl.{t.keys.anchor}" for t in objective.kl} | {"entropy"}
    )
    for stage in objective.control:
        if stage.params["of"] not in present:
            yield Finding(
                f"control.{stage.kind.name}",
                f"there is no {stage.params['of']} for it to set",
                f"add {stage.params['of']}",
            )


def _reset(objective: Objective, facts: RunFacts) -> Findings:
    if objective.reset.kind.name == "never":
        return
    if not any(term.keys.anchor == "ref" and acts(objective, term) for term in objective.kl):
        yield Finding(
            "reset", "there is no divergence to a reference that a reset could renew", "add kl with anchor ref"
        )
    if not facts.evaluates:
        yield Finding(
            "reset", "follows the scores of evaluations, and there are none", "set data.eval and learner.eval_every"
        )


def _doubts_about_tokens(objective: Objective, facts: RunFacts) -> Findings:
    chosen = sorted(_kinds(objective.tokens) & SELECTIONS)
    if len(chosen) > 1:
        yield Finding(
            "tokens", f"{' and '.join(chosen)} all choose tokens by their effect on entropy", "run one of them"
        )
    if "band_cov" in chosen and objective.scale.kind.name == "none":
        yield Finding("tokens.band_cov", "without a scale |A| is small, and few tokens reach the band", "lower `low`")
    if objective.stats == "microbatch":
        yield Finding("stats", "selections depend on how responses fall into micro-batches", 'set stats = "old"')


def _doubts_about_credit(objective: Objective, facts: RunFacts) -> Findings:
    filters, rewards = _kinds(objective.filter), _kinds(objective.reward)
    if "mixed_groups" in filters and objective.baseline.kind.name == "constant":
        yield Finding(
            "filter", "drops groups without a correct response, which a constant baseline learns from", "drop it"
        )
    if "unlikeliness" in rewards and facts.single:
        yield Finding(
            "reward.unlikeliness", "its paper needs several epochs on a batch to see an effect", "set epochs = 2"
        )
    if objective.modulation and objective.scale.kind.name == "whiten":
        yield Finding(
            "advantage.scale", "whitening mixes the prompts that a modulation tells apart", 'set scale = "none"'
        )
    if "positive_nll" in _kinds(objective.aux):
        yield Finding(
            "aux.positive_nll", "lowers entropy, and cancels a low weight of positive advantages", "watch entropy"
        )


def _doubts_about_clip(objective: Objective, facts: RunFacts) -> Findings:
    cuts = objective.clip.kind.name not in ("none", "score_function", "soft_gate")
    if cuts and facts.single and objective.anchor.kind.name == "old" and objective.stats == "old":
        yield Finding("clip", "never acts: with one update per batch the ratio is 1", "set updates_per_batch >= 2")
    if objective.reset.kind.name != "never":
        yield Finding("reset", "every reset bends the entropy law: its fit starts again", "read it between resets only")


Rule = Callable[[Objective, RunFacts], Findings]
REFUSALS: tuple[Rule, ...] = (
    _missing_needs,
    _inert_divergence,
    _divergence_replaces_clip,
    _sequence_ratio,
    _ratio_counted,
    _statistics,
    _constant_baseline,
    _group_outcomes,
    _critic,
    _lengths,
    _on_policy_definition,
    _double_divergence,
    _controllers,
    _reset,
)
WARNINGS: tuple[Rule, ...] = (_doubts_about_tokens, _doubts_about_credit, _doubts_about_clip)
