"""Findings of rules, and the small questions that rules ask of stages."""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from isentrope.learner.objective.objective import Objective
from isentrope.learner.objective.run_facts import RunFacts
from isentrope.learner.objective.schema import Function, Stage


@dataclass(frozen=True, slots=True)
class Finding:
    """One mistake. key: its place below `learner.objective`."""

    key: str
    reason: str
    remedy: str


Findings = Iterator[Finding]
Rule = Callable[[Objective, RunFacts], Findings]


def names(stages: Iterable[Stage]) -> list[str]:
    """Return the kinds' names, sorted: what messages and keys call them. What a kind does is asked of its function."""
    return sorted(stage.kind.name for stage in stages)


def running(stages: Iterable[Stage], *functions: Function) -> list[Stage]:
    """Return the stages that compute one of `functions`."""
    return [stage for stage in stages if stage.runs(*functions)]


def entry(stage: Stage) -> str:
    """Return a stage as an entry of its list in a run file."""
    given = {"kind": stage.kind.name, **stage.params}
    return f"{{ {', '.join(f'{name} = {json.dumps(value)}' for name, value in given.items())} }}"
