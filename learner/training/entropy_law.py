"""The entropy law R = -a exp(H) + b: a least-squares line through measurements, with its uncertainty. A monitor
only.

"The Entropy Mechanism of Reinforcement Learning for Reasoning Language Models" by Cui et al.
(https://arxiv.org/abs/2505.22617). The law breaks by construction once entropy is controlled, or the reference is
reset.
"""

import math
from collections.abc import Iterable, Sequence

import numpy as np
from pydantic import BaseModel

from isentrope.learner.measures import EntropyLaw
from isentrope.learner.records import BatchRow

FEWEST = 10
"""Batches before anything is said: a single one has a standard error of its own."""


class MeasuredProcess(BaseModel):
    """Part of a `BatchProcess` that the law needs."""

    reward_drawn: float | None = None
    pass_rate_drawn: float | None = None


class MeasuredBatch(BaseModel):
    """Part of a `BatchRow` that the law needs."""

    batch: int
    entropy: float
    reward: float
    process: MeasuredProcess = MeasuredProcess()


class RunningFit:
    """The fit through every batch since the reference was last refreshed, as a run goes on."""

    def __init__(self, rows: Iterable[BatchRow | MeasuredBatch], refreshed_at: int | None) -> None:
        """Go on behind `rows`; what lies before the batch `refreshed_at` followed another reference."""
        self._pairs = [pair_of(row) for row in rows if row.batch > (refreshed_at or 0)]

    def restart(self) -> None:
        """Forget all batches: the reference is refreshed, and entropy and reward follow another line from here."""
        self._pairs = []

    def add(self, entropy: float, reward: float) -> EntropyLaw | None:
        """Return the fit with a new batch; None: not yet, or the entropy has not moved."""
        self._pairs.append((entropy, reward))
        if len(self._pairs) < FEWEST:
            return None
        return fit([entropy for entropy, _ in self._pairs], [reward for _, reward in self._pairs])


def pair_of(row: BatchRow | MeasuredBatch) -> tuple[float, float]:
    """Return entropy and mean reward of a batch. Where groups are replaced for their outcome, those left have a mean of
    their own; then that of all that were drawn says how good the policy is. Older rows have its pass rate instead."""
    process = row.process
    drawn = process.pass_rate_drawn if process.reward_drawn is None else process.reward_drawn
    return row.entropy, row.reward if drawn is None else drawn


def fit(entropy: Sequence[float], reward: Sequence[float]) -> EntropyLaw | None:
    """Return the least-squares line of reward on (-exp(entropy), 1); None with fewer than three points or one
    entropy."""
    x, y = -np.exp(np.asarray(entropy, dtype=np.float64)), np.asarray(reward, dtype=np.float64)
    n = len(x)
    centred = x - x.mean() if n else x
    spread = float(centred @ centred)
    if n < 3 or spread <= 1e-12 * n:
        return None
    a = float(centred @ (y - y.mean())) / spread
    b = float(y.mean() - a * x.mean())
    residual = y - (a * x + b)
    squares, total = float(residual @ residual), float(((y - y.mean()) ** 2).sum())
    # the ceiling is the line's value at x = -1
    error = math.sqrt(squares / (n - 2) * (1 / n + (-1 - x.mean()) ** 2 / spread))
    margin = student_t(n - 2) * error
    ceiling = b - a
    return EntropyLaw(
        a=a,
        b=b,
        ceiling=ceiling,
        ceiling_low=ceiling - margin,
        ceiling_high=ceiling + margin,
        r2=1 - squares / total if total > 0 else 1.0,
        rmse=math.sqrt(squares / n),
        points=n,
    )


def student_t(degrees: int) -> float:
    """Return the 97.5 % quantile of Student's t, within 1 % from 3 degrees on: Cornish-Fisher around the normal, exact
    below 3."""
    if degrees <= 2:
        return (12.7062, 4.3027)[degrees - 1]
    z = 1.959964
    g1 = (z**3 + z) / 4
    g2 = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    g3 = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + g1 / degrees + g2 / degrees**2 + g3 / degrees**3
