"""Texts about methods: the list, one objective with its sources, the pairs that can be merged."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from isentrope.handbook.show import first_sentence
from isentrope.handbook.stages import stages
from isentrope.learner.config import LearnerConfig
from isentrope.learner.objective.dimensions import CHOICES, DIMENSIONS, KlKeys
from isentrope.learner.objective.needs import PROVIDED, Need, needs, stages_of
from isentrope.learner.objective.objective import Objective
from isentrope.learner.objective.presets import DEFAULT, Merged, build, load_objective, method_names, read_preset
from isentrope.learner.objective.rules import check
from isentrope.learner.objective.run import take_suggestions
from isentrope.learner.objective.run_facts import RunFacts, run_facts
from isentrope.rollout.config import SamplingConfig
from isentrope.toml_text import toml_key, toml_value

FAMILIES = {
    "baseline": "Baselines and scales of advantages",
    "surrogate": "Surrogates and clips",
    "stale": "Stale tokens, and engines that compute otherwise",
    "credit": "Credit by outcome, answer or step",
    "tokens": "Entropy by a choice of tokens",
    "control": "Entropy by a controller",
    "critic": "Critics",
    "demonstrations": "Demonstrations",
    "recipe": "Recipes of several parts",
}
"""Families of presets, in the order of a list of them."""

LONGEST = 1024
"""Value of `max_new_tokens` where there is no run."""


@dataclass(frozen=True, slots=True)
class MethodInfo:
    """One preset. name: its config value; title: the method's own name; acts: when it makes a difference. missing:
    needs that this version cannot supply."""

    name: str
    title: str
    family: str
    paper: str
    year: int
    differs: str
    acts: str
    missing: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class MethodPair:
    """Two presets merged in this order. refusals: why they cannot be merged; empty if they can."""

    first: str
    second: str
    refusals: tuple[str, ...]


def list_methods() -> list[MethodInfo]:
    """Return every preset, by name."""
    infos = []
    for name in method_names():
        preset = read_preset(name, Path())
        _, objective = _composed([name], Path())
        missing = tuple(sorted(need.value for need in needs(objective) if need not in PROVIDED))
        infos.append(
            MethodInfo(
                name=name,
                title=preset.name,
                family=preset.family,
                paper=preset.paper,
                year=preset.year,
                differs=preset.differs,
                acts=preset.acts,
                missing=missing,
            )
        )
    return infos


def show(methods: Sequence[str], run_folder: Path) -> str:
    """Return the merged objective, key by key with the preset that set it, what that overrode and what the key means,
    and a run's reasons to refuse it."""
    merged, objective = _composed(methods, run_folder)
    presets = {name: read_preset(name, run_folder) for name in methods}
    lines = [f"# {name}: {', '.join(filter(None, (preset.name, preset.paper)))}" for name, preset in presets.items()]
    lines += [f"# suggested run key: {key} = {value:g}  # {by}" for key, (value, by) in merged.suggested.items()]
    lines += [f"# {line}" for line in merged.replaced]
    for need, path in sorted(needs(objective).items()):
        lines.append(f"# needs {need}, for {path}" + ("" if need in PROVIDED else ": not in this version"))
    lines += [f"# refused: {f.key}: {f.reason}; {f.remedy}" for f in check(objective, _facts(merged)).refusals]
    return "\n".join([*lines, *tables(merged, objective, meanings(objective))])


def tables(merged: Merged, objective: Objective, texts: Mapping[str, str] | None = None) -> list[str]:
    """Return the lines of the merged objective as TOML, each key with what set it, what that overrode, and its text."""
    lines = []
    for path, value in [*merged.choices.items(), *_keys(objective)]:
        note = merged.provenance.get(path, DEFAULT)
        if path in merged.overridden:
            former, source = merged.overridden[path]
            note += f", over {toml_value(former)} of {source}"
        note = ". ".join(filter(None, (note, (texts or {}).get(path))))
        lines.append(f"{toml_key(path.split('.'))} = {toml_value(value)}  # {note}")
    return ["[learner.objective]", *sorted(lines)]


def meanings(objective: Objective) -> dict[str, str]:
    """Return a sentence about each key of an objective, by its path; about the user's own stages there is none."""
    entries = [entry for stage in stages() for entry in (stage, *stage.keys)]
    texts = {entry.name: first_sentence(entry.text) for entry in entries if entry.text}
    names = {path: path for path in CHOICES}
    for path, stage in stages_of(objective):
        kind = stage.kind.name
        place = f"{path}.{kind}" if path in DIMENSIONS else path
        if path.startswith("kl."):
            place = f"kl.tokens.{kind}" if path.endswith(".tokens") else f"kl.{kind}"
        names |= {f"{path}.kind": place, **{f"{path}.{key}": f"{place}.{key}" for key in stage.params}}
    for number in range(len(objective.kl)):
        names |= {f"kl.{number}.{key}": f"kl.{key}" for key in KlKeys.model_fields}
    return {path: texts[name] for path, name in names.items() if name in texts}


def matrix() -> list[MethodPair]:
    """Return every ordered pair of different presets, judged for an asynchronous run that supplies all their needs."""
    return [_judged(first, second) for first in method_names() for second in method_names() if first != second]


def matrix_text(pairs: Sequence[MethodPair]) -> str:
    """Return a table of first preset by second: `.` can be merged, a letter is explained below."""
    names = sorted({pair.first for pair in pairs})
    reasons = sorted({reason for pair in pairs for reason in pair.refusals})
    letters = {reason: _letter(place) for place, reason in enumerate(reasons)}
    cells = {(pair.first, pair.second): letters[pair.refusals[0]] if pair.refusals else "." for pair in pairs}
    width = max(map(len, names))
    numbers = " ".join(f"{place:>2}" for place in range(len(names)))
    lines = [f"{'':{width}}    {numbers}"]
    for place, first in enumerate(names):
        row = " ".join(f"{cells.get((first, second), ''):>2}" for second in names)
        lines.append(f"{first:{width}} {place:>2} {row}")
    return "\n".join([*lines, "", *(f"{letter}: {reason}" for reason, letter in letters.items())])


def _composed(methods: Sequence[str], run_folder: Path) -> tuple[Merged, Objective]:
    merged = load_objective(methods, {}, run_folder)
    return merged, build(merged, run_folder, max_new_tokens=LONGEST)


def _judged(first: str, second: str) -> MethodPair:
    merged, objective = _composed([first, second], Path())
    refusals = check(objective, _facts(merged)).refusals
    return MethodPair(first, second, tuple(f"{f.key}: {f.reason}" for f in refusals))


def _facts(merged: Merged) -> RunFacts:
    """Return those of an asynchronous run that does as the presets suggest, and supplies whatever they need."""
    learner, sampling, _ = take_suggestions(LearnerConfig(), SamplingConfig(), merged)
    return replace(run_facts(learner, sampling, mode="async", evaluates=True), provided=frozenset(Need))


def _keys(objective: Objective) -> Iterator[tuple[str, Any]]:
    """Yield key path and value of everything that is set."""
    for path, stage in stages_of(objective):
        yield f"{path}.kind", stage.kind.name
        yield from ((f"{path}.{key}", value) for key, value in stage.params.items() if value is not None)
    for place, term in enumerate(objective.kl):
        yield from ((f"kl.{place}.{key}", value) for key, value in term.keys.model_dump(exclude={"tokens"}).items())


def _letter(place: int) -> str:
    letters = "abcdefghijklmnopqrstuvwxyz"
    return letters[place] if place < 26 else letters[place // 26 - 1] + letters[place % 26]
