"""The difference of two methods with an interval: a bootstrap over prompts and seeds. Numbers in, numbers out.

S seeds, P held-out prompts. Prompts are drawn for both methods alike, and so are seeds if both have the same ones. A
few seeds spread less than what they are drawn from, so their part of each draw is widened by sqrt(S / (S - 1)), and by
Student's t over the normal's quantile. One seed says nothing about others: then the interval is about prompts alone.
"""

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from isentrope.learner.training.entropy_law import student_t

Scores: TypeAlias = NDArray[np.float64]
"""[S, P]: mean outcome of each held-out prompt, by seed."""
Verdict: TypeAlias = Literal["better", "worse", "not distinguishable"]

DRAWS = 2000
NORMAL = 1.959964
"""The normal's 97.5 % quantile."""


@dataclass(frozen=True, slots=True)
class Difference:
    """First method minus second. low, high: ends of the 95 % interval."""

    mean: float
    low: float
    high: float

    @property
    def verdict(self) -> Verdict:
        """The first method, compared with the second."""
        if self.low > 0:
            return "better"
        return "worse" if self.high < 0 else "not distinguishable"


def difference(first: Scores, second: Scores, *, paired: bool, seed: int = 0) -> Difference:
    """Return the difference of two methods on the same prompts; paired: row i of both is of the same seed."""
    rng = np.random.default_rng(seed)
    prompts = first.shape[1]
    apart = first.mean(0) - second.mean(0)
    chosen = rng.integers(prompts, size=(DRAWS, prompts))
    deviation = apart[chosen].mean(1) - apart.mean()
    if paired:
        deviation = deviation + _by_seed(first.mean(1) - second.mean(1), rng)
    else:
        deviation = deviation + _by_seed(first.mean(1), rng) - _by_seed(second.mean(1), rng)
    low, high = np.quantile(deviation, [0.025, 0.975])
    mean = float(apart.mean())
    return Difference(mean, mean + float(low), mean + float(high))


def _by_seed(values: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """Return the widened deviation of each draw of as many seeds from the mean of all: [DRAWS]."""
    count = len(values)
    if count < 2:
        return np.zeros(DRAWS)
    drawn = values[rng.integers(count, size=(DRAWS, count))].mean(1)
    wider = math.sqrt(count / (count - 1)) * student_t(count - 1) / NORMAL
    widened: NDArray[np.float64] = wider * (drawn - values.mean())
    return widened
