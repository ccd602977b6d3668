"""The objective of a run: presets' suggestions applied, rules checked.

Everything that starts or checks a run uses it, so that all refuse the same.
"""

from dataclasses import dataclass
from pathlib import Path

from isentrope.errors import ConfigError
from isentrope.learner.config import LearnerConfig
from isentrope.learner.objective.objective import Objective
from isentrope.learner.objective.presets import Merged, build, load_objective
from isentrope.learner.objective.rules import Verdict, check, needs_whole_groups
from isentrope.learner.objective.run_facts import RunFacts, run_facts
from isentrope.rollout.config import SamplingConfig


@dataclass(frozen=True, slots=True)
class Opened:
    """A run's objective. suggested: values taken from presets, one line each; learner, sampling: with these values."""

    learner: LearnerConfig
    sampling: SamplingConfig
    merged: Merged
    objective: Objective
    facts: RunFacts
    verdict: Verdict
    suggested: tuple[str, ...]


def open_objective(
    learner: LearnerConfig, sampling: SamplingConfig, *, run_folder: Path, evaluates: bool, graded: bool = False
) -> Opened:
    """Build the objective of `learner.method` and `learner.objective`.

    evaluates: there is held-out data. graded: nothing says what is correct. Keys that the run file does not set take
    the presets' suggestions. The refusals of the rules are in `verdict` (see `refusals`).

    Raises:
        ConfigError: it cannot be built.
    """
    merged = load_objective(learner.method, learner.objective, run_folder)
    learner, sampling, suggested = take_suggestions(learner, sampling, merged)
    objective = build(merged, run_folder, max_new_tokens=sampling.max_new_tokens)
    if needs_whole_groups(objective) and "min_group" not in sampling.model_fields_set:
        sampling = sampling.model_copy(update={"min_group": sampling.group_size})
    facts = run_facts(
        learner, sampling, mode=learner.mode, evaluates=evaluates and learner.eval_every > 0, graded=graded
    )
    return Opened(learner, sampling, merged, objective, facts, check(objective, facts), suggested)


def refusals(opened: Opened) -> list[ConfigError]:
    """Return one error for each refusal of the rules."""
    return [
        ConfigError(finding.reason, where=opened.merged.place(finding.key), fix=finding.remedy)
        for finding in opened.verdict.refusals
    ]


def warnings(opened: Opened) -> list[str]:
    """Return a line for each warning about an explicit setting, and for each stage that another preset replaced."""
    merged = opened.merged
    found = [finding for finding in opened.verdict.warnings if merged.sources(finding.key)]
    return [*merged.replaced, *(f"{merged.place(f.key)}: {f.reason}; {f.remedy}" for f in found)]


def take_suggestions(
    learner: LearnerConfig, sampling: SamplingConfig, merged: Merged
) -> tuple[LearnerConfig, SamplingConfig, tuple[str, ...]]:
    """Return both tables with the keys that they leave unset as the presets suggest them, and a line for each such
    key."""
    lines = []
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
        lines.append(f"{name} = {value:g}, suggested by {method}")
    return learner, sampling, tuple(lines)


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
