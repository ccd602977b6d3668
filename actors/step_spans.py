"""From judged steps of a text to spans of the tokens that it was decoded from."""

from bisect import bisect_right
from collections.abc import Callable, Sequence

import numpy as np

from isentrope.rollout.rewards.steps import Step
from isentrope.rollout.wire.types import Steps


def to_tokens(steps: Sequence[Step], tokens: int, characters: Callable[[int], int]) -> Steps:
    """Return the steps of a response as spans of its tokens, each of which belongs to the first step that it touches.

    Args:
        steps: what lies behind the text, or has no token of its own, is left out.
        tokens: number of tokens of the response.
        characters: function from a number of tokens to the length of the text of the first ones, which does not fall.
    """
    found: list[tuple[int, int, bool]] = []
    whole = characters(tokens)
    for step in steps:
        if step.start >= whole:
            break
        before = found[-1][1] if found else 0
        start, last = (
            bisect_right(range(1, tokens + 1), place, key=characters)
            for place in (step.start, min(step.end, whole) - 1)
        )
        if max(start, before) <= last:
            found.append((max(start, before), last + 1, step.correct))
    columns = list(zip(*found, strict=True)) or [(), (), ()]
    return Steps(np.array(columns[0], np.int32), np.array(columns[1], np.int32), np.array(columns[2], np.bool_))
