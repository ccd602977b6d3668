"""Rules for objectives and runs. Every rule is about dimensions and kinds, with its reason and a remedy.

A setting that would do nothing, or count something twice, is refused; a doubtful one is a warning.
"""

from dataclasses import dataclass

from isentrope.learner.objective.credit_rules import (
    constant_baseline,
    doubts_about_credit,
    groups,
    lengths,
    on_policy_definition,
    scaled_twice,
    unread_critic,
    whole_groups,
)
from isentrope.learner.objective.dimensions import CHOICES
from isentrope.learner.objective.findings import Finding, Findings, Rule, names
from isentrope.learner.objective.needs import Need, acts, needs
from isentrope.learner.objective.objective import Objective
from isentrope.learner.objective.policy_rules import (
    divergence_replaces_clip,
    double_divergence,
    doubts_about_clip,
    doubts_about_tokens,
    inert_divergence,
    ratio_counted,
    sequence_ratio,
    statistics,
)
from isentrope.learner.objective.run_facts import RunFacts
from isentrope.learner.objective.run_rules import few_selected, too_few_selected, unbounded_age, wide_clip
from isentrope.learner.objective.stages import control, reset


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


OF_MODE: tuple[Rule, ...] = (inert_divergence, on_policy_definition, unbounded_age)
"""Refusals that may hold in one mode of a run and not in the other."""
REFUSALS: tuple[Rule, ...] = (
    _missing_needs,
    inert_divergence,
    divergence_replaces_clip,
    sequence_ratio,
    ratio_counted,
    statistics,
    constant_baseline,
    scaled_twice,
    groups,
    whole_groups,
    unread_critic,
    lengths,
    on_policy_definition,
    double_divergence,
    _controllers,
    _reset,
    unbounded_age,
    too_few_selected,
)
WARNINGS: tuple[Rule, ...] = (doubts_about_tokens, doubts_about_credit, doubts_about_clip, wide_clip, few_selected)
