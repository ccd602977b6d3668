"""Passes over the rows of one file, in the order that `data.order` says: pure functions of the place in them."""

import re
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from isentrope.errors import DataError

SHUFFLED, FILE = "shuffled", "file"
"""Orders beside those by a column's values."""

_SCORED = re.compile(r"scored:(?P<column>.+?)(?P<descending> descending)?")


@dataclass(frozen=True, slots=True)
class Order:
    """An order by the values of `column`; `descending`: the largest first. Equal ones stay in the file's order."""

    column: str
    descending: bool

    def rows(self, values: NDArray[np.float64]) -> NDArray[np.int64]:
        """Return [n]: the rows of n values in this order."""
        return np.argsort(-values if self.descending else values, kind="stable")


def scored_order(order: str) -> Order | None:
    """Return the order by a column that a `data.order` says; None: it is another one."""
    found = _SCORED.fullmatch(order)
    return Order(found["column"], bool(found["descending"])) if found is not None else None


class ShuffledPasses:
    """Passes that each hold every row once, shuffled by seed and pass.

    file: number of the file among those of a mixture, so that files of equal length are not shuffled alike.
    """

    def __init__(self, count: int, seed: int, file: int = 0) -> None:
        self._count, self._seed, self._file = count, seed, file
        self._order = lru_cache(maxsize=2)(self._shuffle)  # orders in flight belong to this pass or the one before

    def row(self, place: int) -> int:
        """Return the row at a place, counted over all passes."""
        data_pass, position = divmod(place, self._count)
        return int(self._order(data_pass)[position])

    def _shuffle(self, data_pass: int) -> NDArray[np.int64]:
        return shuffle(self._count, self._seed + data_pass, self._file)


class OrderedPasses:
    """Passes over rows in a given order, cut into `stages` blocks of equal length.

    With one stage the order is kept exactly. With several, the rows of a stage are passed over `passes` times, each
    time shuffled, before those of the next; after the last stage the first one comes again.
    """

    def __init__(self, rows: NDArray[np.int64], stages: int, passes: int, seed: int) -> None:
        if stages > len(rows):
            raise DataError(f"{len(rows)} rows cannot be cut into {stages} stages", where="data.stages", fix="lower it")
        self._rows, self._passes, self._seed = rows, passes, seed
        self._starts = [len(rows) * stage // stages for stage in range(stages + 1)]
        self._order = lru_cache(maxsize=2)(self._block)

    def row(self, place: int) -> int:
        """Return the row at a place, counted over all passes."""
        if len(self._starts) == 2:
            return int(self._rows[place % len(self._rows)])
        cycle, rest = divmod(place, len(self._rows) * self._passes)
        stage = int(np.searchsorted(self._starts, rest // self._passes, side="right")) - 1
        start, end = self._starts[stage], self._starts[stage + 1]
        stage_pass, position = divmod(rest - start * self._passes, end - start)
        return int(self._order(stage, cycle * self._passes + stage_pass)[position])

    def _block(self, stage: int, stage_pass: int) -> NDArray[np.int64]:
        block = self._rows[self._starts[stage] : self._starts[stage + 1]]
        return block[shuffle(len(block), self._seed + stage_pass, stage)]


def shuffle(count: int, seed: int, stream: int) -> NDArray[np.int64]:
    """Return [count]: a permutation, by sorted raw random bits, the same in every NumPy; `Generator.permutation` is
    not."""
    key = np.array([seed % (1 << 64), stream], dtype=np.uint64)
    return np.argsort(np.random.Philox(key=key).random_raw(count), kind="stable")
