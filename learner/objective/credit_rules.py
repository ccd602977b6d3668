"""Rules about the credit of an objective: rewards, filters, baselines, critic, scale, modulation."""

from isentrope.learner.objective.findings import Finding, Findings, entry, names, running
from isentrope.learner.objective.objective import Objective
from isentrope.learner.objective.run_facts import RunFacts
from isentrope.learner.objective.stages import (
    advantage,
    auxiliary,
    critic,
    filter,
    reward,
)

GROUP_BASELINES = (
    advantage.group_mean,
    advantage.leave_one_out,
    advantage.length_weighted,
    advantage.token_optimal,
    advantage.best_of_group,
    advantage.max_likelihood,
    advantage.entropy_range,
    advantage.per_reward,
)
SCALED = (advantage.entropy_range, advantage.per_reward)
"""Baselines with a scale of their own."""
WHOLE_GROUP_BASELINES = (advantage.best_of_group,)
"""Baselines whose objective is that of the number of responses: a group with fewer trains another one."""


def constant_baseline(objective: Objective, facts: RunFacts) -> Findings:
    """Refuse stages that are defined on group advantages beside a constant baseline."""
    if not objective.baseline.runs(advantage.constant):
        return
    scale = objective.scale
    if scale.runs(advantage.group_std, advantage.leave_one_out_std, advantage.whiten):
        yield Finding(
            "advantage.scale", f"a constant baseline is not scaled by {scale.kind.name}", 'set scale = "none"'
        )
    for key in _of_group_advantages(objective):
        yield Finding(key, "acts on group advantages, and the baseline is constant", "drop one of the two")


def scaled_twice(objective: Objective, facts: RunFacts) -> Findings:
    """Refuse a scale behind a baseline that has its own."""
    baseline, scale = objective.baseline, objective.scale
    if baseline.runs(*SCALED) and not scale.runs(advantage.unscaled):
        yield Finding(
            "advantage.scale",
            f"{baseline.kind.name} has a scale of its own, and {scale.kind.name} would scale it again",
            'set advantage.scale = "none"',
        )


def single_rewards(objective: Objective, facts: RunFacts) -> Findings:
    """Refuse shaping of the sum of rewards where credit is taken from each reward alone, or from a teacher."""
    baseline = objective.baseline
    if baseline.runs(advantage.per_reward, advantage.teacher):
        taken = "takes each by itself" if baseline.runs(advantage.per_reward) else "reads no reward"
        for kind in names(objective.reward):
            reason = f"shapes the sum of rewards, and {baseline.kind.name} {taken}"
            yield Finding(f"reward.{kind}", reason, "drop one of the two")


def groups(objective: Objective, facts: RunFacts) -> Findings:
    """Refuse group advantages that are 0, and filters that leave nothing."""
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


def hidden_differences(objective: Objective, facts: RunFacts) -> Findings:
    """Yield a doubt about a filter of groups by the sum of rewards, where credit is taken from each reward alone."""
    for kind in names(running(objective.filter, filter.mixed_groups)):
        if objective.baseline.runs(advantage.per_reward):
            reason = "drops groups whose sums are equal, of which the single rewards may differ"
            yield Finding(f"filter.{kind}", reason, "drop it")


def needs_whole_groups(objective: Objective) -> bool:
    """Return True if a group of which responses are missing would train another objective."""
    return objective.baseline.runs(*WHOLE_GROUP_BASELINES)


def whole_groups(objective: Objective, facts: RunFacts) -> Findings:
    """Refuse a baseline of whole groups where responses may be missing."""
    if needs_whole_groups(objective) and not facts.whole_groups:
        yield Finding(
            "advantage.baseline",
            f"{objective.baseline.kind.name} is defined for all responses of a group, and some may be missing",
            "leave sampling.min_group out, or set it to sampling.group_size",
        )


def unread_critic(objective: Objective, facts: RunFacts) -> Findings:
    """Refuse a critic that nothing reads, and a baseline of a critic that is not trained."""
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


def lengths(objective: Objective, facts: RunFacts) -> Findings:
    """Refuse two rules about the length of responses that contradict each other."""
    terms = names(running(objective.reward, reward.soft_overlong, reward.stop_properly))
    if running(objective.filter, filter.not_truncated) and terms:
        yield Finding(
            "filter",
            f"truncated responses are dropped, and {' and '.join(terms)} should teach from them",
            "keep one",
        )
    if len(terms) == 2:
        yield Finding("reward", f"{' and '.join(terms)} both punish truncated responses", "keep one")


def on_policy_definition(objective: Objective, facts: RunFacts) -> Findings:
    """Refuse a baseline of exact on-policy training where updates are not."""
    stale = not facts.on_policy and (facts.updates > 1 or facts.epochs > 1 or facts.max_lag > 0)
    if objective.baseline.runs(advantage.length_weighted) and stale:
        yield Finding(
            "advantage.baseline",
            f"{objective.baseline.kind.name} is the optimal baseline of exact on-policy training only",
            'set mode = "on_policy", or updates_per_batch = 1, epochs = 1 and staleness.max_lag = 0',
        )


def doubts_about_credit(objective: Objective, facts: RunFacts) -> Findings:
    """Yield doubts about rewards, filters and modulations that lose or mix what others tell."""
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


def _of_group_advantages(objective: Objective) -> list[str]:
    """Return the places of stages that are defined on advantages relative to a group."""
    shaped = names(running(objective.reward, reward.unlikeliness))
    return [f"modulation.{kind}" for kind in names(objective.modulation)] + [f"reward.{kind}" for kind in shaped]
