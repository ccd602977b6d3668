"""Steps of reasoning that a reward function has judged: spans of characters of a response.

A reward function gives them as `{"reward": 0.0, "steps": [[start, end, correct], ...]}`; `paragraphs` cuts a response
into such spans for a judge of its own, and `known_steps` finds those whose verdict the data holds.
"""

import re
from collections.abc import Mapping
from typing import NamedTuple

from isentrope.rollout.data.known_steps import normal
from isentrope.rollout.rewards.foreign import plain

MAX_STEPS = 1024
"""Most steps of one response."""


class Step(NamedTuple):
    """A judged step: characters start..end-1 of a response."""

    start: int
    end: int
    correct: bool


def paragraphs(text: str) -> list[tuple[int, int]]:
    """Return the spans of a text between its blank lines, without white space at their ends."""
    return [found.span() for found in re.finditer(r"\S(?:.|\n(?!\s*\n))*(?<=\S)", text)]


def known_steps(text: str, known: Mapping[str, bool]) -> tuple[Step, ...]:
    """Return the paragraphs of a text that are steps with a known verdict, up to `MAX_STEPS`; known: verdicts by the
    `normal` text of a step."""
    spans = ((start, end, known.get(normal(text[start:end]))) for start, end in paragraphs(text))
    return tuple(Step(start, end, correct) for start, end, correct in spans if correct is not None)[:MAX_STEPS]


def read_steps(value: object) -> tuple[Step, ...]:
    """Return the steps that a reward function has given; ValueError: they are not ascending, disjoint spans."""
    entries = plain(value)
    if not isinstance(entries, (list, tuple)) or len(entries) > MAX_STEPS:
        raise ValueError(f"steps are a list of [start, end, correct], {MAX_STEPS} at most")
    steps = tuple(_step(plain(entry)) for entry in entries)
    bounds = [0, *(bound for step in steps for bound in step[:2])]
    if any(step.start == step.end for step in steps) or bounds != sorted(bounds):
        raise ValueError("steps are ascending and disjoint, with start < end in characters")
    return steps


def _step(entry: object) -> Step:
    if not isinstance(entry, (list, tuple)) or len(entry) != 3:
        raise ValueError(f"a step is [start, end, correct], not {str(entry)[:60]}")
    start, end, correct = map(plain, entry)
    if type(start) is not int or type(end) is not int or correct not in (0, 1):
        raise ValueError(f"a step is two whole numbers and True or False, not {str(entry)[:60]}")
    return Step(start, end, bool(correct))
