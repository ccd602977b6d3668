"""Rules for objectives and runs. Every rule is about dimensions and kinds, with its reason and a remedy.

A setting that would do nothing, or count something twice, is refused; a doubtful one is a warning.
"""

from dataclasses import dataclass

from pydantic import BaseModel, ValidationError

from isentrope.errors import requirement
from isentrope.learner.objective.credit_rules import (
    constant_baseline,
    doubts_about_credit,
    groups,
    hidden_differences,
    lengths,
    on_policy_definition,
    scaled_twice,
    single_rewards,
    unread_critic,
    whole_groups,
)
from isentrope.learner.objective.dimensions import CHOICES, KlKeys
from isentrope.learner.objective.findings import Finding, Findings, Rule, names, running
from isentrope.learner.objective.needs import absent, acts, needs, stages_of
from isentrope.learner.objective.objective import Objective
from isentrope.learner.objective.places import LEARNING_RATE, split_target
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
from isentrope.learner.objective.run_rules import (
    few_selected,
    too_few_selected,
    truncated_sampling,
    unbounded_age,
    wide_clip,
)
from isentrope.learner.objective.schema import Stage
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
        why, remedy = absent(need)
        yield Finding(
            key, f"needs {need}, {why}", f'set {key} = "{CHOICES[key].words[0]}"' if key in CHOICES else remedy
        )


def _controllers(objective: Objective, facts: RunFacts) -> Findings:
    of_entropy = names(stage for stage in objective.control if not stage.runs(control.adaptive_kl))
    if len(of_entropy) > 1:
        yield Finding("control", f"{' and '.join(of_entropy)} steer one quantity, entropy", "keep one of them")
    for stage in running(objective.control, control.entropy_pi):
        if stage.params["effect"] is None and stage.params["of"] not in control.EFFECTS:
            reason = f"it is not known whether more of {stage.params['of']} raises or lowers entropy"
            yield Finding(f"control.{stage.kind.name}.effect", reason, 'set effect = "raises" or "lowers"')
        low, high, initial = (stage.params[name] for name in ("low", "high", "initial"))
        if not low <= initial <= high:
            reason = f"{initial:g} is not within [{low:g}, {high:g}]"
            yield Finding(f"control.{stage.kind.name}.initial", reason, "set it within low and high")
    if of_entropy and objective.entropy.params["coef"] != 0:
        yield Finding("entropy", f"a fixed bonus beside the controller {of_entropy[0]}", "set entropy.coef = 0")
    for stage in objective.control:
        yield from _target(objective, stage)


def _target(objective: Objective, controller: Stage) -> Findings:
    """Refuse a controller of what is not there, is not a number, or leaves its bounds."""
    at, of = f"control.{controller.kind.name}", str(controller.params["of"])
    place, key = split_target(of)
    bounds = [float(controller.params[name]) for name in ("initial", "low", "high") if name in controller.params]
    terms = {f"kl.{term.keys.anchor}": term.keys.model_dump() for term in objective.kl}
    stages = dict(stages_of(objective))
    if place in stages:
        present = dict(stages[place].params)
        allowed: type[BaseModel] = stages[place].kind.keys
    elif place in terms:
        present, allowed = terms[place], KlKeys
    elif of == LEARNING_RATE:
        if min(bounds) < 0:
            yield Finding(f"{at}.low", "a learning rate is not below 0", "set low >= 0")
        return
    else:
        yield Finding(at, f"there is no {of} for it to set", f"add {of}")
        return
    if not isinstance(present.get(key), float):
        yield Finding(f"{at}.of", f"{of} is not a number that may take any value", "name a key that is")
        return
    for bound in bounds:
        try:
            allowed.model_validate({**present, key: bound})
        except ValidationError as error:
            yield Finding(at, f"{of} cannot be {bound:g}", f"{key} {requirement(error.errors()[0]['msg'])}")
            return


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
    single_rewards,
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
    truncated_sampling,
)
WARNINGS: tuple[Rule, ...] = (
    doubts_about_tokens,
    doubts_about_credit,
    hidden_differences,
    doubts_about_clip,
    wide_clip,
    few_selected,
)
