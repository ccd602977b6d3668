"""The entropy law R = -a exp(H) + b: a least-squares line through what was measured, with its uncertainty. A monitor
only.

Knows pairs of numbers. "The Entropy Mechanism of Reinforcement Learning for Reasoning Language Models" by Cui et al.
(https://arxiv.org/abs/2505.22617). It breaks by construction once entropy is controlled, or the reference is reset.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class EntropyLaw:
    """The fit. ceiling: b - a, the reward at entropy 0; its interval holds it with 95 % confidence if residuals are
    independent and normal, which successive batches are not quite."""

    a: float
    b: float
    ceiling: float
    ceiling_low: float
    ceiling_high: float
    r2: float
    rmse: float
    points: int


def fit(entropy: Sequence[float], reward: Sequence[float]) -> EntropyLaw | None:
    """Ordinary least squares of reward on (-exp(entropy), 1); None with fewer than three points or one entropy."""
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
    margin = _student_t(n - 2) * error
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


def _student_t(degrees: int) -> float:
    """97.5 % quantile of Student's t, within 1 % from 3 degrees on: Cornish-Fisher around the normal, exact below 3."""
    if degrees <= 2:
        return (12.7062, 4.3027)[degrees - 1]
    z = 1.959964
    g1 = (z**3 + z) / 4
    g2 = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    g3 = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + g1 / degrees + g2 / degrees**2 + g3 / degrees**3
