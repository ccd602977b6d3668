"""Outcomes of a group's responses: a group that has only one teaches nothing by comparison, and may be replaced."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from isentrope.rollout.rewards.correctness import Correctness, judge
from isentrope.rollout.wire.types import Group

ALL_CORRECT = "all_correct"
NONE_CORRECT = "none_correct"
SAME_REWARD = "same_reward"
"""Reason of a group whose rewards are equal, where that says nothing about correctness."""


@dataclass(frozen=True, slots=True)
class Tally:
    """Sums over responses."""

    responses: int = 0
    reward: float = 0.0
    correct: int = 0
    """0 where rewards are graded."""

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(self.responses + other.responses, self.reward + other.reward, self.correct + other.correct)

    def __sub__(self, other: "Tally") -> "Tally":
        return Tally(self.responses - other.responses, self.reward - other.reward, self.correct - other.correct)


@dataclass(frozen=True, slots=True)
class OutcomeRule:
    """The rule that tells outcomes apart."""

    by: Literal["reward", "correct"] = "reward"
    """Outcome of a response: its reward, or whether it is correct."""
    correctness: Correctness | None = None
    """Rule by which a response is correct; None: rewards are graded."""

    def reason(self, group: Group) -> str | None:
        """Return the reason to replace a group whose responses have one outcome; None: they differ."""
        correct = set(judge(self.correctness, group.responses) or ())
        rewards = {np.float32(response.reward) for response in group.responses}  # as filters compare them
        if len(correct if self.by == "correct" else rewards) > 1:
            return None
        return SAME_REWARD if len(correct) != 1 else ALL_CORRECT if correct.pop() else NONE_CORRECT

    def tally(self, group: Group) -> Tally:
        """Return the sums over a group's responses."""
        correct = judge(self.correctness, group.responses) or ()
        return Tally(len(group.responses), sum(response.reward for response in group.responses), sum(correct))


ANY_DIFFERENCE = OutcomeRule()
"""Responses with different rewards have different outcomes."""
