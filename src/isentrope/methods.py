"""Texts about methods: the list, one objective with its sources, the pairs that can be merged."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from isentrope.learner.config import LearnerConfig
from isentrope.learner.objective.needs import PROVIDED, Need, needs, stages_of
from isentrope.learner.objective.objective import Objective
from isentrope.learner.objective.presets import DEFAULT, Merged, build, load_objective, method_names, read_preset
from isentrope.learner.objective.rules import check
from isentrope.learner.objective.run import take_suggestions
from isentrope.learner.objective.run_facts import RunFacts, run_facts
from isentrope.rollout.config import SamplingConfig
from isentrope.toml_text import toml_key, toml_value

LONGEST = 1024
"""Value of `max_new_tokens` where there is no run."""


@dataclass(frozen=True, slots=True)
class MethodInfo:
    """One preset. name: its config value; title: the method's own name. missing: needs that this version cannot
    supply."""

    name: str
    title: str
    paper: str
    differs: str
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
        infos.append(MethodInfo(name, preset.name, preset.paper, preset.differs, missing))
    return infos


def show(methods: Sequence[str], run_folder: Path) -> str:
    """Return the merged objective, key by key with the preset that set it, and a run's reasons to refuse it."""
    merged, objective = _composed(methods, run_folder)
    presets = {name: read_preset(name, run_folder) for name in methods}
    lines = [f"# {name}: {', '.join(filter(None, (preset.name, preset.paper)))}" for name, preset in presets.items()]
    lines += [f"# suggested run key: {key} = {value:g}  # {by}" for key, (value, by) in merged.suggested.items()]
    lines += [f"# {line}" for line in merged.replaced]
    for need, path in sorted(needs(objective).items()):
        lines.append(f"# needs {need}, for {path}" + ("" if need in PROVIDED else ": not in this version"))
    lines += [f"# refused: {f.key}: {f.reason}; {f.remedy}" for f in check(objective, _facts(merged)).refusals]
    return "\n".join([*lines, *tables(merged, objective)])


def tables(merged: Merged, objective: Objective) -> list[str]:
    """Return the lines of the merged objective as TOML, each key with what set it."""
    keys = sorted(
        f"{toml_key(path.split('.'))} = {toml_value(value)}  # {merged.provenance.get(path, DEFAULT)}"
        for path, value in [*merged.choices.items(), *_keys(objective)]
    )
    return ["[learner.objective]", *keys]


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
