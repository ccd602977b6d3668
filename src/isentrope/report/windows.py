"""Means over windows of batches: a single one has a standard error of about 0.05 in its reward with 32 prompts, too
much to be believed alone. Numbers in, numbers out.
"""

import math
from collections.abc import Iterable, Sequence
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

WINDOW = 10
"""Batches in one mean."""


def mean(values: Iterable[float]) -> float:
    """Return the mean; NaN if there is none: of nothing, or of numbers whose sum is not finite."""
    try:
        return fmean(values)
    except (OverflowError, ValueError):
        return math.nan


def window_means(values: Sequence[float]) -> NDArray[np.float64]:
    """Return the means of consecutive windows; a rest too short for a window is left out."""
    whole = len(values) - len(values) % WINDOW
    windows = np.asarray(values[:whole], dtype=np.float64).reshape(-1, WINDOW)
    means: NDArray[np.float64] = windows.mean(axis=1)
    return means


def rolling_mean(values: Sequence[float]) -> NDArray[np.float64]:
    """Return the mean over the window around each value, as far as there are values; as long as the input."""
    total = np.concatenate([[0.0], np.cumsum(np.asarray(values, dtype=np.float64))])
    places = np.arange(len(values))
    starts = np.maximum(places - WINDOW // 2, 0)
    ends = np.minimum(places + WINDOW // 2, len(values))
    means: NDArray[np.float64] = (total[ends] - total[starts]) / (ends - starts)
    return means
