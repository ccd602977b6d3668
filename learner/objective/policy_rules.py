"""Rules about the policy's side of an objective: ratio, clip, correction, divergences, selected tokens, statistics."""

from isentrope.learner.objective.findings import Finding, Findings, names, running
from isentrope.learner.objective.needs import acts, stages_of
from isentrope.learner.objective.objective import Objective
from isentrope.learner.objective.run_facts import RunFacts
from isentrope.learner.objective.schema import Stage
from isentrope.learner.objective.stages import advantage, clip, correction, kl, ratio, reduce, reset, reward, tokens

SELECTIONS = (
    tokens.top_entropy,
    tokens.top_cov,
    tokens.band_cov,
    tokens.entropy_change,
    tokens.entropy_change_exact,
    tokens.discriminator,
    tokens.centred_discriminator,
)
SCORE_SURROGATES = (clip.mask, clip.score_function)
TOKEN_CLIPS = (clip.truncated_ratio, clip.geometric_mean, clip.gamma_weight)
"""Surrogates that take the ratios of tokens, and of a response only by themselves."""
UNKNOWN_TO_ENGINE = frozenset({"entropy_old", "sum_p2", "sum_p2_logp"})
"""Statistics that only a pass of the learner gives."""
OLD_STATS = 'set stats = "old"'
WEIGHTS = (correction.truncate, correction.truncate_current, correction.band, correction.reject)
"""Corrections that multiply by the ratio to the engine that sampled; the others only choose tokens."""
TOKEN_BASELINES = (advantage.returns, advantage.gae, advantage.token_optimal)


def inert_divergence(objective: Objective, facts: RunFacts) -> Findings:
    """Refuse a divergence that is 0, or whose gradient has expectation 0."""
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


def divergence_replaces_clip(objective: Objective, facts: RunFacts) -> Findings:
    """Refuse a clip beside a divergence that takes its place."""
    for place, term in enumerate(objective.kl):
        selected = term.keys.anchor == "old" and term.tokens is not None
        replaces = selected or term.estimator.runs(kl.sequence_k2)
        if replaces and not objective.clip.runs(clip.none, clip.score_function):
            yield Finding(
                "clip",
                f"the divergence of kl.{place} takes the place of a clip, and there is one: {objective.clip.kind.name}",
                'set clip = "none", or put the method with the divergence last',
            )


def sequence_ratio(objective: Objective, facts: RunFacts) -> Findings:
    """Refuse what differs between tokens beside a ratio of whole responses."""
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
    by_length = objective.level.runs(ratio.sequence) and objective.reduce.runs(reduce.seq_sum, reduce.seq_sum_constant)
    if not by_length and not objective.reduce.runs(reduce.seq_token_mean):
        yield Finding(
            "reduce",
            f"a ratio of whole responses needs one weight for each, which {objective.reduce.kind.name} does not give",
            'set reduce = "seq_token_mean", or "seq_sum" with ratio.level = "sequence"',
        )
    if objective.clip.runs(*TOKEN_CLIPS) and objective.level.runs(ratio.sequence):
        yield Finding(
            "ratio.level", f"clip {objective.clip.kind.name} is defined on tokens", 'set ratio.level = "token"'
        )


def ratio_counted(objective: Objective, facts: RunFacts) -> Findings:
    """Refuse a ratio that is counted twice, or that never acts."""
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


def statistics(objective: Objective, facts: RunFacts) -> Findings:
    """Refuse stages that read statistics which the run does not compute."""
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


def double_divergence(objective: Objective, facts: RunFacts) -> Findings:
    """Refuse a divergence to the reference in rewards and loss at once."""
    in_loss = any(term.keys.anchor == "ref" and acts(objective, term) for term in objective.kl)
    for kind in names(running(objective.reward, reward.kl_penalty)):
        if in_loss:
            yield Finding(
                f"reward.{kind}", "the divergence to the reference is in the loss already", "keep one of the two"
            )


def doubts_about_tokens(objective: Objective, facts: RunFacts) -> Findings:
    """Yield doubts about selections of tokens."""
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


def doubts_about_clip(objective: Objective, facts: RunFacts) -> Findings:
    """Yield doubts about clips and resets that change nothing, or more than is meant."""
    cuts = not objective.clip.runs(clip.none, clip.score_function, clip.soft_gate)
    if cuts and facts.single and objective.anchor.runs(ratio.old) and objective.stats == "old":
        remedy = "set updates_per_batch >= 2"
        if facts.on_policy:
            remedy = 'mode = "on_policy" has one: set clip = "none", or mode = "async" and updates_per_batch >= 2'
        yield Finding("clip", "never acts: with one update per batch the ratio is 1", remedy)
    if not objective.reset.runs(reset.never):
        yield Finding("reset", "every reset bends the entropy law: its fit starts again", "read it between resets only")


def _weighs(stage: Stage) -> bool:
    """Return True if a correction multiplies by the ratio to the engine that sampled, and does not only choose."""
    return stage.runs(*WEIGHTS) and bool(stage.params.get("weigh", True))
