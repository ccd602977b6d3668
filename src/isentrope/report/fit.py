"""Means over windows of batches, and the curve R = -a exp(H) + b through them. Numbers in, numbers out.

H is the mean entropy of a token (nats), R the mean reward. One batch of 32 prompts has a standard error of about 0.05
in R, so single batches say little: the fit is on means of ten. It describes one run; it predicts neither another run
nor this one's future, and over the range that a short run covers a straight line in H fits as well.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

WINDOW = 10
"""Batches in one mean."""

FEWEST_POINTS = 3
"""Minimum number of points: two would fit any curve exactly."""


@dataclass(frozen=True, slots=True)
class Fit:
    """R = -a exp(H) + b by least squares."""

    a: float
    b: float
    r2: float
    r2_line: float
    """R² of a straight line in H, for comparison."""
    residual: float
    """Root mean square of the residuals, in units of reward."""
    points: int

    @property
    def ceiling(self) -> float:
        """Value of the curve at H = 0."""
        return self.b - self.a

    def at(self, entropy: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the curve at these entropies."""
        curve: NDArray[np.float64] = self.b - self.a * np.exp(entropy)
        return curve


def window_means(values: Sequence[float]) -> NDArray[np.float64]:
    """Return means of consecutive windows; a remainder shorter than a window is left out."""
    whole = len(values) - len(values) % WINDOW
    windows = np.asarray(values[:whole], dtype=np.float64).reshape(-1, WINDOW)
    means: NDArray[np.float64] = windows.mean(axis=1)
    return means


def rolling_mean(values: Sequence[float]) -> NDArray[np.float64]:
    """Return the mean over the window around each value, shorter at the ends; as long as the input."""
    total = np.concatenate([[0.0], np.cumsum(np.asarray(values, dtype=np.float64))])
    places = np.arange(len(values))
    starts = np.maximum(places - WINDOW // 2, 0)
    ends = np.minimum(places + WINDOW // 2, len(values))
    means: NDArray[np.float64] = (total[ends] - total[starts]) / (ends - starts)
    return means


def fit(entropy: NDArray[np.float64], reward: NDArray[np.float64]) -> Fit | None:
    """Fit the curve; None if there are too few points or the entropy never moved."""
    if len(entropy) < FEWEST_POINTS or np.ptp(entropy) == 0:
        return None
    slope, intercept, r2, residual = _least_squares(np.exp(entropy), reward)
    _, _, r2_line, _ = _least_squares(entropy, reward)
    return Fit(a=-slope, b=intercept, r2=r2, r2_line=r2_line, residual=residual, points=len(entropy))


def _least_squares(x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[float, float, float, float]:
    """Return slope, intercept, R², root mean square of the residuals."""
    slope, intercept = np.polyfit(x, y, 1)
    left = y - (slope * x + intercept)
    spread = float(np.square(y - y.mean()).sum())
    r2 = 1.0 - float(np.square(left).sum()) / spread if spread > 0 else 1.0
    return float(slope), float(intercept), r2, float(np.sqrt(np.square(left).mean()))
