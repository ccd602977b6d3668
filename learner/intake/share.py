"""The share of one rank in a batch: the responses that its network sees, and its micro-batches of every pass."""

import json
from dataclasses import dataclass
from typing import TypeAlias

from isentrope.learner.intake.plan import Plan, Rows, Sweep
from isentrope.learner.intake.ragged import RaggedBatch

Parts: TypeAlias = tuple[Rows, ...]
"""Micro-batches of one pass."""


@dataclass(frozen=True, slots=True)
class Share:
    """All that one rank needs of a batch before the network has seen it."""

    ragged: RaggedBatch
    """The rank's responses; on rank 0 those of all ranks."""
    statistics: Parts
    """Micro-batches of the pass without gradient; the numbers are places in `ragged`."""
    updates: tuple[Parts, ...]

    def to_bytes(self) -> bytes:
        """Return the micro-batches as a line of JSON, and the responses after it."""
        return json.dumps([self.statistics, self.updates]).encode() + b"\n" + self.ragged.to_bytes()

    @classmethod
    def from_bytes(cls, blob: bytes) -> "Share":
        """Return what `to_bytes` wrote."""
        head, _, batch = blob.partition(b"\n")
        statistics, updates = json.loads(head)
        return cls(RaggedBatch.from_bytes(batch), _parts(statistics), tuple(map(_parts, updates)))


def share_of_first(ragged: RaggedBatch, plan: Plan) -> Share:
    """Return the share of rank 0, which has the whole batch."""
    return Share(ragged, plan.statistics.shares[0], tuple(sweep.shares[0] for sweep in plan.updates))


def share_of(ragged: RaggedBatch, plan: Plan, rank: int) -> Share:
    """Return the share of another rank, with its own responses alone."""
    rows = plan.rows_of(rank)
    place = {row: number for number, row in enumerate(rows)}

    def own(sweep: Sweep) -> Parts:
        return tuple(tuple(place[row] for row in part) for part in sweep.shares[rank])

    return Share(ragged.take(rows), own(plan.statistics), tuple(map(own, plan.updates)))


def _parts(told: list[list[int]]) -> Parts:
    return tuple(map(tuple, told))
