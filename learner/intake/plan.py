"""The plan of a batch: its optimizer updates, each divided over ranks and micro-batches.

A pure function of lengths and groups. It affects speed and memory only: losses are sums over responses with global
denominators, so the gradient does not depend on it. Where rows are padded, those of like length share a micro-batch.
A rank sees a response in all passes or in none, so its tokens travel once.
"""

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TypeAlias

import numpy as np

from isentrope.rollout.wire.types import Int64

Rows: TypeAlias = tuple[int, ...]
"""Indices of responses, ascending."""

MICRO_BATCH_COST = 64
"""Cost of a micro-batch beside its tokens, in tokens; decides how many there are where rows are padded."""


@dataclass(frozen=True, slots=True)
class Sweep:
    """One pass over some responses, divided over the ranks.

    rows: the responses. shares: [rank][micro-batch] -> responses; every rank has the same number of micro-batches, so
    that all run the same collectives; the last ones of a rank may be empty.
    """

    rows: Rows
    shares: tuple[tuple[Rows, ...], ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """The passes of one batch: `statistics` without gradient over all responses, then the optimizer updates."""

    statistics: Sweep
    updates: tuple[Sweep, ...]

    def rows_of(self, rank: int) -> Rows:
        """Return the responses that a rank's network sees."""
        shares = [sweep.shares[rank] for sweep in (self.statistics, *self.updates)]
        return tuple(sorted(set(chain.from_iterable(chain.from_iterable(shares)))))


def make_plan(  # noqa: PLR0913  (two arrays, and four numbers from three owners)
    lengths: Int64,
    groups: Int64,
    *,
    ranks: int,
    micro_batch_tokens: int,
    updates_per_batch: int,
    epochs: int,
    padded: bool = False,
) -> Plan:
    """Return the plan of one batch.

    Args:
        lengths: [N], tokens the network sees of each response.
        groups: [N], group of each response. Updates are made of whole groups in ascending order.
        ranks: data-parallel ranks.
        micro_batch_tokens: no micro-batch has more, unless it is a single response.
        updates_per_batch: optimizer updates in one pass over the batch. With fewer groups than updates, every group is
            an update: an update without data would still change the weights, by momentum and decay.
        epochs: passes over the batch.
        padded: rows of a micro-batch count as long as its longest: it is a rectangle, which is what is limited.
    """
    assert len(lengths) == len(groups) > 0
    size = [int(length) for length in lengths]
    held: list[Rows] = [()] * ranks
    updates = []
    for part in np.array_split(np.unique(groups), min(updates_per_batch, len(np.unique(groups)))):
        rows = np.flatnonzero(np.isin(groups, part)).tolist()
        shares = _fullest_to_emptiest(size, _balance(size, rows, ranks), held)
        updates.append(_sweep(size, shares, micro_batch_tokens, padded=padded))
        held = [(*before, *new) for before, new in zip(held, shares, strict=True)]
    return Plan(_sweep(size, held, micro_batch_tokens, padded=padded), tuple(updates * epochs))


def make_sweep(
    lengths: Int64, rows: Iterable[int], ranks: int, micro_batch_tokens: int, *, padded: bool = False
) -> Sweep:
    """Divide one pass over `rows`: token counts of any two ranks differ by at most the longest response."""
    size = [int(length) for length in lengths]
    return _sweep(size, _balance(size, rows, ranks), micro_batch_tokens, padded=padded)


def _sweep(size: Sequence[int], shares: Sequence[Rows], limit: int, *, padded: bool) -> Sweep:
    """Divide the rows of each rank into micro-batches."""
    split = _rectangles(size, shares, limit) if padded else _packs(size, shares, limit)
    return Sweep(
        rows=tuple(sorted(row for share in shares for row in share)),
        shares=tuple(tuple(_longest_first(size, parts)) for parts in split),
    )


def _packs(size: Sequence[int], shares: Sequence[Rows], limit: int) -> list[list[Rows]]:
    """Return micro-batches of like sums of tokens, equally many for each rank."""
    count = _fewest(size, shares, limit)
    while True:
        split = [_balance(size, share, count) for share in shares]
        if all(_fits(size, part, limit) for parts in split for part in parts):
            return split  # at the latest when every response is alone
        count += 1


def _rectangles(size: Sequence[int], shares: Sequence[Rows], limit: int) -> list[list[Rows]]:
    """Return micro-batches of like lengths, equally many for each rank: ranks with fewer divide their largest."""
    split = [_least_area(size, share, limit) for share in shares]
    count = max(len(parts) for parts in split)
    for parts in split:
        while len(parts) < count:
            largest = max(parts, key=lambda part: (len(part) > 1, _area(size, part)), default=())
            by_length = sorted(largest, key=lambda row: -size[row])
            longer, shorter = by_length[: (len(largest) + 1) // 2], by_length[(len(largest) + 1) // 2 :]
            parts.append(tuple(sorted(shorter)))
            if longer:
                parts[parts.index(largest)] = tuple(sorted(longer))
    return split


def _least_area(size: Sequence[int], share: Rows, limit: int) -> list[Rows]:
    """Return the micro-batches of a rank with the smallest sum of rectangles, each within the limit or a single row."""
    rows = sorted(share, key=lambda row: (-size[row], row))
    cost, end = np.zeros(len(rows) + 1), np.zeros(len(rows), np.int64)
    for first in range(len(rows) - 1, -1, -1):
        most = max(1, min(len(rows) - first, limit // size[rows[first]]))
        costs = size[rows[first]] * np.arange(1, most + 1) + cost[first + 1 : first + most + 1]
        best = int(costs.argmin())
        cost[first], end[first] = costs[best] + MICRO_BATCH_COST, first + best + 1
    parts, first = list[Rows](), 0
    while first < len(rows):
        parts.append(tuple(sorted(rows[first : end[first]])))
        first = int(end[first])
    return parts


def _fullest_to_emptiest(size: Sequence[int], shares: Sequence[Rows], held: Sequence[Rows]) -> list[Rows]:
    """Return the share of each rank: the more tokens a rank holds, the fewer it gets. If the sums of two ranks, and two
    shares, differ by at most the longest response, so do the new sums."""
    given = iter(sorted(shares, key=lambda share: -_tokens(size, share)))
    order = sorted(range(len(held)), key=lambda rank: _tokens(size, held[rank]))
    found = dict(zip(order, given, strict=True))
    return [found[rank] for rank in range(len(held))]


def _balance(size: Sequence[int], rows: Iterable[int], parts: int) -> list[Rows]:
    """Assign rows, longest first, to the part with the fewest tokens: the fullest was emptiest before its last row."""
    heap = [(0, part) for part in range(parts)]
    taken: list[list[int]] = [[] for _ in range(parts)]
    for row in sorted(rows, key=lambda row: (-size[row], row)):
        tokens, part = heap[0]
        taken[part].append(row)
        heapq.heapreplace(heap, (tokens + size[row], part))
    return [tuple(sorted(part)) for part in taken]


def _fewest(size: Sequence[int], shares: Sequence[Rows], limit: int) -> int:
    """Return a lower bound of micro-batches per rank: by tokens, and as two rows above half the limit never share."""
    by_tokens = max(-(-sum(min(size[row], limit) for row in share) // limit) for share in shares)
    by_rows = max(sum(2 * size[row] > limit for row in share) for share in shares)
    return max(by_tokens, by_rows, 1)


def _fits(size: Sequence[int], part: Rows, limit: int) -> bool:
    return len(part) <= 1 or _tokens(size, part) <= limit


def _tokens(size: Sequence[int], rows: Rows) -> int:
    return sum(size[row] for row in rows)


def _area(size: Sequence[int], rows: Rows) -> int:
    """Return the tokens of a rectangle."""
    return len(rows) * max((size[row] for row in rows), default=0)


def _longest_first(size: Sequence[int], parts: Sequence[Rows]) -> list[Rows]:
    """Sort micro-batches so that those that run at the same time have similar sizes; empty ones come last."""
    return sorted(parts, key=lambda part: (-_tokens(size, part), part))
