"""Rules for objectives and runs. Every rule is about dimensions and kinds, with its reason and a remedy.

A setting that would do nothing, or count something twice, is refused; a doubtful one is a warning.
"""

from dataclasses import dataclass

from isentrope.learner.objective.dimensions import CHOICES
from isentrope.learner.objective.findings import Finding, Findings, Rule, entry, names, running
from isentrope.learner.objective.needs import Need, acts, needs, stages_of
from isentrope.learner.objective.objective import Objective
from isentrope.learner.objective.run_facts import RunFacts
from isentrope.learner.objective.run_rules import few_selected, too_few_selected, unbounded_age, wide_clip
from isentrope.learner.objective.schema import Stage
from isentrope.learner.objective.stages import (
    advantage,
    auxiliary,
    clip,
    control,
    correction,
    critic,
    filter,
    kl,
    ratio,
    reduce,
    reset,
    reward,
    tokens,
)

GROUP_BASELINES = (
    advantage.group_mean,
    advantage.leave_one_out,
    advantage.length_weighted,
    advantage.token_optimal,
    advantage.best_of_group,
    advantage.max_likelihood,
)
WHOLE_GROUP_BASELINES = (advantage.best_of_group,)
"""Baselines whose objective is that of the number of responses: a group with fewer trains another one."""
TOKEN_BASELINES = (advantage.returns, advantage.gae, advantage.token_optimal)
SELECTIONS = (
    tokens.top_entropy,
    tokens.top_cov,
    tokens.band_cov,
    tokens.entropy_change,
    tokens.entropy_change_exact,
)
SCORE_SURROGATES = (clip.mask, clip.score_function)
UNKNOWN_TO_ENGINE = frozenset({"entropy_old", "sum_p2", "sum_p2_logp"})
"""Statistics that only a pass of the learner gives."""
OLD_STATS = 'set stats = "old"'
WEIGHTS = (correction.truncate, correction.truncate_current, correction.band, correction.reject)
"""Corrections that multiply by the ratio to the engine that sampled; the others only choose tokens."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Result of the rules for an objective in a run."""

    refusals: tuple[Finding, ...]
    warnings: tuple[Finding, ...]


def check(objective: Objective, facts: RunFacts) -> Verdict:
    """Return all findings of the rules."""
    return Verdict(
        tuple(finding for rule in REFUSALS for finding in rule(objective, facts)),
        tuple(finding for rule in WARNINGS for finding in rule(objective, facts)),
    )


def unfit(objective: Objective, facts: RunFacts) -> str:
    """Return why the mode of such a run is wrong for the objective, or "". Asked again before a switch of mode."""
    return "; ".join(finding.reason for rule in OF_MODE for finding in rule(objective, facts))


def _weighs(stage: Stage) -> bool:
    """Return True if a correction multiplies by the ratio to the engine that sampled, and does not only choose."""
    return stage.runs(*WEIGHTS) and bool(stage.params.get("weigh", True))


def _missing_needs(objective: Objective, facts: RunFacts) -> Findings:
    for need, key in needs(objective).items():
        if need in facts.provided:
            continue
        if need is Need.CORRECTNESS:
            remedy = 'say in data.correct what is correct ("reward > 1.5"), or choose a method without it'
            yield Finding(key, f'needs {need}, and data.correct = "nothing" says that rewards are graded', remedy)
            continue
        remedy = f'set {key} = "{CHOICES[key].words[0]}"' if key in CHOICES else "choose a method without it"
        yield Finding(key, f"needs {need}, which this version cannot supply yet", remedy)


def _inert_divergence(objective: Objective, facts: RunFacts) -> Findings:
    for place, term in enumerate(objective.kl):
        anchored = term.keys.anchor == "old" and (objective.stats != "rollout" or facts.on_policy)
        if anchored and facts.single and acts(objective, term):
            yield Finding(
                f"kl.{place}",
                "a divergence to the old policy is 0 with one update per batch, and so is its gradient",
                "set learner.updates_per_batch >= 2 and mode async, or choose a method without it",
            )
        if term.estimator.runs(kl.k1) and term.keys.importance == "none" and term.keys.gradient == "own":
            yield Finding(
                f"kl.{place}",
                "the gradient of k1 as a loss has expectation 0: it holds nothing",
                'use k2, or importance = "old"',
            )


def _divergence_replaces_clip(objective: Objective, facts: RunFacts) -> Findings:
    for place, term in enumerate(objective.kl):
        selected = term.keys.anchor == "old" and term.tokens is not None
        replaces = selected or term.estimator.runs(kl.sequence_k2)
        if replaces and not objective.clip.runs(clip.none, clip.score_function):
            yield Finding(
                "clip",
                f"the divergence of kl.{place} takes the place of a clip, and there is one: {objective.clip.kind.name}",
                'set clip = "none", or put the method with the divergence last',
            )


def _sequence_ratio(objective: Objective, facts: RunFacts) -> Findings:
    if not objective.level.runs(ratio.sequence) and not objective.clip.runs(clip.geometric_mean):
        return
    varying = [f"tokens.{name}" for name in names(running(objective.tokens, *SELECTIONS, tokens.step_labels))]
    if objective.baseline.runs(*TOKEN_BASELINES):
        varying.append("advantage.baseline")
    for key in varying:
        yield Finding(
            key,
            "a ratio of whole responses no longer belongs to a loss whose weights differ between tokens",
            'set ratio.level = "token", or drop the token weights',
        )
    if not objective.reduce.runs(reduce.seq_token_mean):
        yield Finding(
            "reduce",
            f"a ratio of whole responses needs the mean over their tokens, not {objective.reduce.kind.name}",
            'set reduce = "seq_token_mean"',
        )
    if objective.clip.runs(clip.truncated_ratio, clip.geometric_mean) and objective.level.runs(ratio.sequence):
        yield Finding(
            "ratio.level", f"clip {objective.clip.kind.name} is defined on tokens", 'set ratio.level = "token"'
        )


def _ratio_counted(objective: Objective, facts: RunFacts) -> Findings:
    cut, anchor = objective.clip, objective.anchor
    weights = [stage for stage in objective.correction if _weighs(stage)]
    if anchor.runs(ratio.rollout) and weights:
        yield Finding(
            f"correction.{weights[0].kind.name}",
            f"a ratio anchored at `{anchor.kind.name}` already reaches back to the engine that sampled: counted twice",
            'set ratio.anchor = "old" or correction = "none"',
        )
    if len(weights) > 1:
        yield Finding(
            "correction",
            f"{' and '.join(names(weights))} each weigh by the ratio to the engine that sampled: counted twice",
            f'set correction = ["none", "{weights[-1].kind.name}"], or another of them',
        )
    for stage in objective.correction:
        of_batch = stage.runs(correction.second_moment) or stage.params.get("normalize", False)
        if anchor.runs(ratio.interpolated) and of_batch:
            yield Finding(
                f"correction.{stage.kind.name}",
                "needs all tokens of the batch at once, and an interpolated anchor moves with every micro-batch",
                'set ratio.anchor = "old"',
            )
    for kind in names(running(objective.correction, correction.truncate_current)):
        if not cut.runs(*SCORE_SURROGATES):
            yield Finding(
                f"correction.{kind}",
                f"{kind} holds the current ratio, and so does clip {cut.kind.name}",
                'set clip = "mask" or correction = ["none", "truncate"]',
            )
    if objective.level.runs(ratio.none) and not cut.runs(clip.none, clip.score_function):
        reason = f"without a ratio, clip {cut.kind.name} never acts"
        yield Finding("clip", reason, 'set clip = "none" or ratio.level = "token"')


def _statistics(objective: Objective, facts: RunFacts) -> Findings:
    if objective.stats != "rollout":
        return
    chosen = [*objective.tokens, *(term.tokens for term in objective.kl if term.tokens is not None)]
    for kind in names(stage for stage in chosen if "entropy" in stage.kind.reads):
        yield Finding("stats", f'{kind} needs entropies, which stats = "rollout" does not have', OLD_STATS)
    for path, stage in stages_of(objective):
        if stage.runs(reward.unlikeliness) or not UNKNOWN_TO_ENGINE.isdisjoint(stage.kind.reads):
            yield Finding(
                path, 'reads what the learner computes before the update, which stats = "rollout" leaves out', OLD_STATS
            )
    fixed = not objective.anchor.runs(ratio.interpolated)
    if fixed and any(not stage.runs(correction.truncate_current) for stage in objective.correction):
        yield Finding(
            "correction",
            'with stats = "rollout" there is no pass of the learner\'s own, and every correction is 1',
            'set stats = "old" or correction = "none"',
        )


def _of_group_advantages(objective: Objective) -> list[str]:
    """Return the places of stages that are defined on advantages relative to a group."""
    shaped = names(running(objective.reward, reward.unlikeliness))
    return [f"modulation.{kind}" for kind in names(objective.modulation)] + [f"reward.{kind}" for kind in shaped]


def _constant_baseline(objective: Objective, facts: RunFacts) -> Findings:
    if not objective.baseline.runs(advantage.constant):
        return
    scale = objective.scale
    if scale.runs(advantage.group_std, advantage.leave_one_out_std, advantage.whiten):
        yield Finding(
            "advantage.scale", f"a constant baseline is not scaled by {scale.kind.name}", 'set scale = "none"'
        )
    for key in _of_group_advantages(objective):
        yield Finding(key, "acts on group advantages, and the baseline is constant", "drop one of the two")


def _groups(objective: Objective, facts: RunFacts) -> Findings:
    relative = objective.baseline.runs(*GROUP_BASELINES)
    one_sided = running(objective.filter, filter.correct_only, filter.incorrect_only)
    if one_sided and relative:
        yield Finding(
            "filter", "all that is left of a group has one outcome: group advantages are 0", "use a constant baseline"
        )
    if len(one_sided) == 2:
        yield Finding("filter", f"{' and '.join(names(one_sided))} leave no response", "keep one of them")
    if relative and facts.group_size == 1:
        yield Finding(
            "advantage.baseline", "a response that is alone in its group has advantage 0", "set group_size >= 2"
        )
    for kind in names(running(objective.filter, filter.mixed_groups)):
        if facts.group_size == 1:
            yield Finding("filter", "a response that is alone in its group never differs from another", f"drop {kind}")


def needs_whole_groups(objective: Objective) -> bool:
    """Return True if a group of which responses are missing would train another objective."""
    return objective.baseline.runs(*WHOLE_GROUP_BASELINES)


def _whole_groups(objective: Objective, facts: RunFacts) -> Findings:
    if needs_whole_groups(objective) and not facts.whole_groups:
        yield Finding(
            "advantage.baseline",
            f"{objective.baseline.kind.name} is defined for all responses of a group, and some may be missing",
            "leave sampling.min_group out, or set it to sampling.group_size",
        )


def _critic(objective: Objective, facts: RunFacts) -> Findings:
    baseline, trained = objective.baseline, not objective.critic.runs(critic.none)
    if not baseline.runs(advantage.gae):
        if trained:
            reason = f"a critic is trained, but the baseline is {baseline.kind.name}"
            yield Finding("critic", reason, 'set critic = "none"')
        return
    if not trained:
        yield Finding("critic", "the baseline is a critic's, and none is trained", 'set critic = "clipped"')
    for key in _of_group_advantages(objective):
        yield Finding(key, "is defined with a group baseline, and the baseline is a critic's", "drop one of the two")


def _lengths(objective: Objective, facts: RunFacts) -> Findings:
    terms = names(running(objective.reward, reward.soft_overlong, reward.stop_properly))
    if running(objective.filter, filter.not_truncated) and terms:
        yield Finding(
            "filter",
            f"truncated responses are dropped, and {' and '.join(terms)} should teach from them",
            "keep one",
        )
    if len(terms) == 2:
        yield Finding("reward", f"{' and '.join(terms)} both punish truncated responses", "keep one")


def _on_policy_definition(objective: Objective, facts: RunFacts) -> Findings:
    stale = not facts.on_policy and (facts.updates > 1 or facts.epochs > 1 or facts.max_lag > 0)
    if objective.baseline.runs(advantage.length_weighted) and stale:
        yield Finding(
            "advantage.baseline",
            f"{objective.baseline.kind.name} is the optimal baseline of exact on-policy training only",
            'set mode = "on_policy", or updates_per_batch = 1, epochs = 1 and staleness.max_lag = 0',
        )


def _double_divergence(objective: Objective, facts: RunFacts) -> Findings:
    in_loss = any(term.keys.anchor == "ref" and acts(objective, term) for term in objective.kl)
    for kind in names(running(objective.reward, reward.kl_penalty)):
        if in_loss:
            yield Finding(
                f"reward.{kind}", "the divergence to the reference is in the loss already", "keep one of the two"
            )


def _controllers(objective: Objective, facts: RunFacts) -> Findings:
    of_entropy = names(stage for stage in objective.control if not stage.runs(control.adaptive_kl))
    if len(of_entropy) > 1:
        yield Finding("control", f"{' and '.join(of_entropy)} steer one quantity, entropy", "keep one of them")
    if of_entropy and objective.entropy.params["coef"] != 0:
        yield Finding("entropy", f"a fixed bonus beside the controller {of_entropy[0]}", "set entropy.coef = 0")
    stages = {"tokens": objective.tokens, "aux": objective.aux, "reward": objective.reward}
    present = {f"{path}.{kind}" for path, several in stages.items() for kind in names(several)}
    present |= {f"kl.{term.keys.anchor}" for term in objective.kl} | {"entropy"}
    for stage in objective.control:
        if stage.params["of"] not in present:
            yield Finding(
                f"control.{stage.kind.name}",
                f"there is no {stage.params['of']} for it to set",
                f"add {stage.params['of']}",
            )


def _reset(objective: Objective, facts: RunFacts) -> Findings:
    if objective.reset.runs(reset.never):
        return
    if not any(term.keys.anchor == "ref" and acts(objective, term) for term in objective.kl):
        yield Finding(
            "reset", "there is no divergence to a reference that a reset could refresh", "add kl with anchor ref"
        )
    if not facts.evaluates:
        yield Finding(
            "reset", "follows the scores of evaluations, and there are none", "set data.eval and learner.eval_every"
        )


def _doubts_about_tokens(objective: Objective, facts: RunFacts) -> Findings:
    chosen = names(running(objective.tokens, *SELECTIONS))
    if len(chosen) > 1:
        yield Finding(
            "tokens", f"{' and '.join(chosen)} all choose tokens by their effect on entropy", "run one of them"
        )
    for kind in names(running(objective.tokens, tokens.band_cov)):
        if objective.scale.runs(advantage.unscaled):
            reason = "without a scale |A| is small, and few tokens reach the band"
            yield Finding(f"tokens.{kind}", reason, "lower `low`")
    if objective.stats == "microbatch":
        yield Finding("stats", "selections depend on how responses fall into micro-batches", OLD_STATS)


def _doubts_about_credit(objective: Objective, facts: RunFacts) -> Findings:
    if running(objective.filter, filter.mixed_groups) and objective.baseline.runs(advantage.constant):
        yield Finding("filter", "drops groups of one outcome, which a constant baseline learns from", "drop it")
    for paid in running(objective.reward, reward.scheme):
        right, wrong = paid.params["right"], paid.params["wrong"]
        reason = f"pays {right:g} for a correct response and {wrong:g} for another, whatever the reward functions gave"
        entries = ['"none"', *(entry(stage) for stage in objective.reward if stage is not paid)]
        remedy = f"set learner.objective.reward = [{', '.join(entries)}] to keep that"
        yield Finding(f"reward.{paid.kind.name}", f"{reason}: partial credit is lost", remedy)
        for kept in running(objective.filter, filter.mixed_groups):
            if kept.params["by"] == "reward":
                reason = f"keeps groups by rewards that {paid.kind.name} replaces by correctness"
                yield Finding(f"filter.{kept.kind.name}", reason, 'set by = "correct"')
    for kind in names(running(objective.reward, reward.unlikeliness)):
        if facts.single:
            reason = "its paper needs several epochs on a batch to see an effect"
            yield Finding(f"reward.{kind}", reason, "set epochs = 2")
    if objective.modulation and objective.scale.runs(advantage.whiten):
        yield Finding(
            "advantage.scale", "whitening mixes the prompts that a modulation tells apart", 'set scale = "none"'
        )
    for kind in names(running(objective.aux, auxiliary.positive_nll)):
        yield Finding(f"aux.{kind}", "lowers entropy, and cancels a low weight of positive advantages", "watch entropy")


def _doubts_about_clip(objective: Objective, facts: RunFacts) -> Findings:
    cuts = not objective.clip.runs(clip.none, clip.score_function, clip.soft_gate)
    if cuts and facts.single and objective.anchor.runs(ratio.old) and objective.stats == "old":
        remedy = "set updates_per_batch >= 2"
        if facts.on_policy:
            remedy = 'mode = "on_policy" has one: set clip = "none", or mode = "async" and updates_per_batch >= 2'
        yield Finding("clip", "never acts: with one update per batch the ratio is 1", remedy)
    if not objective.reset.runs(reset.never):
        yield Finding("reset", "every reset bends the entropy law: its fit starts again", "read it between resets only")


OF_MODE: tuple[Rule, ...] = (_inert_divergence, _on_policy_definition, unbounded_age)
"""Refusals that may hold in one mode of a run and not in the other."""
REFUSALS: tuple[Rule, ...] = (
    _missing_needs,
    _inert_divergence,
    _divergence_replaces_clip,
    _sequence_ratio,
    _ratio_counted,
    _statistics,
    _constant_baseline,
    _groups,
    _whole_groups,
    _critic,
    _lengths,
    _on_policy_definition,
    _double_divergence,
    _controllers,
    _reset,
    unbounded_age,
    too_few_selected,
)
WARNINGS: tuple[Rule, ...] = (_doubts_about_tokens, _doubts_about_credit, _doubts_about_clip, wide_clip, few_selected)
