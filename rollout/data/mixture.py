"""Mixture of several data files by weights: which file a work order draws from, and which of its prompts."""

import heapq
import math
from collections.abc import Sequence

import numpy as np

from isentrope.errors import ConfigError


class Mixture:
    """Files in the shares of their weights, in an order that repeats.

    After n orders each file has been drawn from n times its share, exactly to less than one prompt, for every n. Each
    draw of a file has a window in which that holds, and the one whose window ends first comes first.
    """

    def __init__(self, weights: Sequence[int]) -> None:
        divisor = math.gcd(*weights)
        self._weights = [weight // divisor for weight in weights]
        self._period = sum(self._weights)
        self._file = np.array(_draws(self._weights), dtype=np.int32)
        self._place = np.zeros(self._period, dtype=np.int64)
        for file in range(len(weights)):
            own = self._file == file
            self._place[own] = np.arange(np.count_nonzero(own))

    def draw(self, seq: int) -> tuple[int, int]:
        """Return the file that work order `seq` draws from, and how many earlier ones have drawn from it."""
        period, position = divmod(seq, self._period)
        file = int(self._file[position])
        return file, period * self._weights[file] + int(self._place[position])


def require_weights(names: Sequence[str], weights: Sequence[str]) -> None:
    """Raise ConfigError unless each of several files has a weight, and each weight a file."""
    if len(names) < 2 and not weights:
        return
    example = ", ".join(f"{name} = 1" for name in names)
    fix = f"write mixture = {{{example}}} with weights of your own" if names else "leave it out"
    for wrong, what in (
        ([name for name in names if name not in weights], "has no weight"),
        ([name for name in weights if name not in names], "is not one of data.train's names"),
    ):
        if wrong:
            raise ConfigError(f"{wrong[0]!r} {what}", where="data.mixture", fix=fix)


def _draws(weights: Sequence[int]) -> list[int]:
    """Return the file of each order of one period.

    Draw j of a file of share p is due after order floor(j / p), not before, and by order ceil((j + 1) / p): outside of
    that the file's count would be off by one or more. Earliest end first keeps all of them.
    """
    period = sum(weights)
    waiting = [(0, file, 0) for file in range(len(weights))]  # order from which it is due, file, draw
    due: list[tuple[int, int, int]] = []  # last order, file, draw
    draws = []
    for order in range(period):
        while waiting and waiting[0][0] <= order:
            _, file, draw = heapq.heappop(waiting)
            heapq.heappush(due, (-(-(draw + 1) * period // weights[file]), file, draw))
        _, file, draw = heapq.heappop(due)
        draws.append(file)
        if draw + 1 < weights[file]:
            heapq.heappush(waiting, ((draw + 1) * period // weights[file], file, draw + 1))
    return draws
