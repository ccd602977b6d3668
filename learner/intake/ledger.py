"""The fate of every seq: trained once, or retired with a reason. The part of exactly-once that a checkpoint keeps.

Seqs below the low watermark are all done; above it a set holds the ones that are. A seq that was retired as poison may
be requeued: it is open again, wherever it is, until it is trained or retired a second time.
"""

import re
from typing import Annotated, TypeAlias

from pydantic import BaseModel, ConfigDict, Field

from isentrope.learner.intake.plan_record import PlanRecord
from isentrope.learner.intake.retirement import POISON

Count: TypeAlias = Annotated[int, Field(ge=0)]


class LedgerState(BaseModel):
    """A ledger as a checkpoint holds it; the default is that of a new run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    lwm: Count = 0
    """Low watermark: every smaller seq is trained or retired, or was and is requeued."""
    above: tuple[int, ...] = ()
    """Other seqs that are trained or retired, ascending."""
    trained: Count = 0
    """Number of trained seqs."""
    retired: dict[str, Count] = {}
    """Number of retired seqs, by reason."""
    replaced: Count = 0
    """Number of those that count against what the next batch may replace for their outcome."""
    batches: Count = 0
    """Number of batches done: trained or, of kept groups alone, skipped."""
    chain: str = ""
    """Digest of the records of these batches, in their order."""
    poisoned: tuple[Count, ...] = ()
    """Seqs that are retired as poison, ascending."""
    requeued: tuple[Count, ...] = ()
    """Seqs that were retired as poison and are open again, ascending."""
    requeues: tuple[str, ...] = ()
    """Every requeue that was carried out, by its name without the number of the learner that wrote the letter."""


class Ledger:
    """The ledger of one learner. Not thread-safe."""

    def __init__(self, state: LedgerState | None = None) -> None:
        state = state or LedgerState()
        self.lwm = state.lwm
        self.trained = state.trained
        self.reasons = dict(state.retired)
        self.replaced = state.replaced
        self.batches = state.batches
        self.chain = state.chain
        self._above = set(state.above)
        self._poisoned = set(state.poisoned)
        self.requeued = set(state.requeued)
        """Seqs that were retired as poison and are open again."""
        self._requeues = set(map(_of_plan, state.requeues))
        done = self.lwm + len(self._above) - len(self.requeued)
        assert done == self.trained + self.retired, "every seq is done once"

    def state(self) -> LedgerState:
        """Return the present state."""
        return LedgerState(
            lwm=self.lwm,
            above=tuple(sorted(self._above)),
            trained=self.trained,
            retired=dict(self.reasons),
            replaced=self.replaced,
            batches=self.batches,
            chain=self.chain,
            poisoned=tuple(sorted(self._poisoned)),
            requeued=tuple(sorted(self.requeued)),
            requeues=tuple(sorted(self._requeues)),
        )

    @property
    def retired(self) -> int:
        """Number of retired seqs; each is replaced by a later one."""
        return sum(self.reasons.values())

    @property
    def cursor(self) -> int:
        """One more than the largest seq known here."""
        return max(self._above, default=self.lwm - 1) + 1

    def known(self, seq: int) -> bool:
        """Return True if `seq` is trained or retired."""
        return (seq < self.lwm or seq in self._above) and seq not in self.requeued

    def known_from(self, low: int) -> set[int]:
        """Return all seqs from `low` on that are trained or retired."""
        return {*range(low, self.lwm), *(seq for seq in self._above if seq >= low)} - self.requeued

    def open_below(self, cursor: int) -> list[int]:
        """Return the seqs below `cursor` that are neither trained nor retired, ascending."""
        new = (seq for seq in range(self.lwm, cursor) if seq not in self._above)
        return sorted({*self.requeued, *new})

    def train(self, record: PlanRecord) -> None:
        """Record that the batch of `record` was trained, from the state that it names."""
        self._follow(record)
        for group in record.groups:
            self._add(group.seq)
        self.trained += len(record.groups)

    def skip(self, record: PlanRecord, reason: str) -> None:
        """Record that the batch of `record` was not trained and the one after it is next: where kept groups are
        trained, no others take the place of its groups, which are retired."""
        self._follow(record)
        for group in record.groups:
            self.retire(group.seq, reason)

    def retire(self, seq: int, reason: str) -> None:
        """Record that `seq` will not be trained."""
        self._add(seq)
        self.reasons[reason] = self.reasons.get(reason, 0) + 1
        if reason == POISON:
            self._poisoned.add(seq)

    def retire_poison(self, seq: int, requeue: str) -> None:
        """Record what a dead letter says of `seq`, unless the ledger has it already: that it is trained, or that it was
        requeued from a letter of the same plan, as a requeue of that name would have it."""
        if not self.known(seq) and _of_plan(requeue) not in self._requeues:
            self.retire(seq, POISON)

    def requeue(self, seq: int, requeue: str) -> bool:
        """Open a seq again that is retired as poison; False: it is not, or this requeue was carried out before."""
        if _of_plan(requeue) in self._requeues or seq not in self._poisoned:
            return False
        self._requeues.add(_of_plan(requeue))
        self._poisoned.remove(seq)
        self.requeued.add(seq)
        self.reasons[POISON] -= 1  # 0 is told too: the broker's counter is of the learner before
        return True

    def withdraw(self) -> int:
        """Retire the requeued seqs as poison once more, as if they had not been requeued, and return their number: that
        may be carried out when the run goes on."""
        withdrawn = sorted(self.requeued)
        for seq in withdrawn:
            self.retire(seq, POISON)
            self._requeues = {name for name in self._requeues if not name.endswith(f".{seq}")}
        return len(withdrawn)

    def _follow(self, record: PlanRecord) -> None:
        assert (record.batch, record.chain) == (self.batches + 1, self.chain), "batches follow each other"
        self.batches = record.batch
        self.chain = record.after

    def _add(self, seq: int) -> None:
        assert not self.known(seq), f"seq {seq} is done already"
        if seq in self.requeued:
            self.requeued.remove(seq)
            return
        self._above.add(seq)
        while self.lwm in self._above:
            self._above.remove(self.lwm)
            self.lwm += 1


def _of_plan(requeue: str) -> str:
    """Return the name of a requeue without its learner's number: a plan has a second letter if the learner that retired
    it was stopped before a checkpoint covered that, and both tell of the same groups."""
    return re.sub(r"^(\d+)-\d+-", r"\1-", requeue)
