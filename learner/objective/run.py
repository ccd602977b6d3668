"""The objective of a run: presets' suggestions applied, rules checked.

Everything that starts or checks a run uses it, so that all refuse the same.
"""

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path

from isentrope.errors import ConfigError
from isentrope.learner.config import LearnerConfig
from isentrope.learner.objective.credit_rules import needs_whole_groups
from isentrope.learner.objective.needs import Need
from isentrope.learner.objective.objective import Objective
from isentrope.learner.objective.presets import Merged, build, load_objective
from isentrope.learner.objective.rules import Verdict, check
from isentrope.learner.objective.run_facts import RunFacts, run_facts
from isentrope.rollout.config import SamplingConfig


@dataclass(frozen=True, slots=True)
class Suggestion:
    """A run key that a preset set, because the run file does not."""

    key: str
    value: float
    method: str

    def __str__(self) -> str:
        """Return it as a line for the user."""
        return f"{self.key} = {self.value:g}, suggested by {self.method}"


@dataclass(frozen=True, slots=True)
class Opened:
    """A run's objective. suggested: what presets set; learner, sampling: with these values."""

    learner: LearnerConfig
    sampling: SamplingConfig
    merged: Merged
    objective: Objective
    facts: RunFacts
    verdict: Verdict
    suggested: tuple[Suggestion, ...]


def open_objective(
    learner: LearnerConfig,
    sampling: SamplingConfig,
    *,
    run_folder: Path,
    evaluates: bool,
    lacks: AbstractSet[Need] = frozenset(),
) -> Opened:
    """Build the objective of `learner.method` and `learner.objective`.

    evaluates: there is held-out data. lacks: needs that the run cannot supply . Keys that the run
    file does not set take the presets' suggestions. The refusals of the rules are in `verdict` (see
    `refusals`).

    Raises:
        ConfigError: it cannot be built.
    """
    merged = load_objective(learner.method, learner.objective, run_folder)
    learner, sampling, suggested = take_suggestions(learner, sampling, merged)
    objective = build(merged, run_folder, max_new_tokens=sampling.max_new_tokens)
    if needs_whole_groups(objective) and "min_group" not in sampling.model_fields_set:
        sampling = sampling.model_copy(update={"min_group": sampling.group_size})
    facts = run_facts(
        learner,
        sampling,
        mode=learner.mode,
        evaluates=evaluates and learner.eval_every > 0,
        lacks=lacks,
    )
    return Opened(learner, sampling, merged, objective, facts, check(objective, facts), suggested)


def refusals(opened: Opened) -> list[ConfigError]:
    """Return one error for each refusal of the rules."""
    return [
        naming_suggestions(
            ConfigError(finding.reason, where=opened.merged.place(finding.key), fix=finding.remedy), opened.suggested
        )
        for finding in opened.verdict.refusals
    ]


def naming_suggestions(error: ConfigError, suggested: Sequence[Suggestion]) -> ConfigError:
    """Return the error with the suggestions whose keys it speaks of: what the user never set needs its source."""
    text = f"{error.what} {error.where} {error.fix}"
    named = [f"{each.key} = {each.value:g} is suggested by {each.method}" for each in suggested if each.key in text]
    return ConfigError("; ".join([error.what, *named]), where=error.where, fix=error.fix)


def notes(opened: Opened) -> list[str]:
    """Return what a user should know of an objective before it runs: suggestions that were taken, and warnings."""
    return [*map(str, opened.suggested), *comparison(opened.suggested), *warnings(opened)]


def comparison(suggested: Sequence[Suggestion]) -> list[str]:
    """Return a line on the keys that two methods must have in common before their runs can be compared."""
    if not suggested:
        return []
    keys = " and ".join(each.key for each in suggested)
    return [f"another method suggests other values: to compare with it, set {keys} in both run files"]


def warnings(opened: Opened) -> list[str]:
    """Return a line for each warning about an explicit setting, and for each stage that another preset replaced."""
    merged = opened.merged
    found = [finding for finding in opened.verdict.warnings if merged.sources(finding.key)]
    return [*merged.replaced, *(f"{merged.place(f.key)}: {f.reason}; {f.remedy}" for f in found)]


def take_suggestions(
    learner: LearnerConfig, sampling: SamplingConfig, merged: Merged
) -> tuple[LearnerConfig, SamplingConfig, tuple[Suggestion, ...]]:
    """Return both tables with the keys that they leave unset as the presets suggest them, and these suggestions."""
    taken = []
    for key, (value, method) in merged.suggested.items():
        table, name = _PLACES[key]
        section = {"learner": learner, "staleness": learner.staleness, "sampling": sampling}[table]
        if name in section.model_fields_set or getattr(section, name) == value:
            continue
        changed = section.model_copy(update={name: value})
        match changed:
            case LearnerConfig():
                learner = changed
            case SamplingConfig():
                sampling = changed
            case _:
                learner = learner.model_copy(update={"staleness": changed})
        taken.append(Suggestion(name, value, method))
    return learner, sampling, tuple(taken)


def suggested_by(merged: Merged) -> dict[str, str]:
    """Return the dotted run keys for which presets suggest values, each with its preset."""
    tables = {"learner": "learner", "staleness": "learner.staleness", "sampling": "sampling"}
    return {f"{tables[_PLACES[key][0]]}.{_PLACES[key][1]}": method for key, (_, method) in merged.suggested.items()}


_PLACES = {
    "updates_per_batch": ("learner", "updates_per_batch"),
    "epochs": ("learner", "epochs"),
    "max_lag": ("staleness", "max_lag"),
    "group_size": ("sampling", "group_size"),
    "temperature": ("sampling", "temperature"),
}
