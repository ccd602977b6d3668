"""The fate of every seq: trained once, or retired with a reason. The part of exactly-once that a checkpoint keeps.

Seqs below the low watermark are all done; above it a set holds the ones that are.
"""

from typing import Annotated, TypeAlias

from pydantic import BaseModel, ConfigDict, Field

from isentrope.learner.intake.plan_record import PlanRecord

Count: TypeAlias = Annotated[int, Field(ge=0)]


class LedgerState(BaseModel):
    """A ledger as a checkpoint holds it; the default is that of a new run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    lwm: Count = 0
    """Low watermark: every smaller seq is trained or retired."""
    above: tuple[int, ...] = ()
    """Other seqs that are trained or retired, ascending."""
    trained: Count = 0
    """Number of trained seqs."""
    retired: dict[str, Count] = {}
    """Number of retired seqs, by reason."""
    batches: Count = 0
    """Number of trained batches."""
    chain: str = ""
    """Digest of the records of these batches, in their order."""


class Ledger:
    """The ledger of one learner. Not thread-safe."""

    def __init__(self, state: LedgerState | None = None) -> None:
        state = state or LedgerState()
        self.lwm = state.lwm
        self.trained = state.trained
        self.reasons = dict(state.retired)
        self.batches = state.batches
        self.chain = state.chain
        self._above = set(state.above)
        assert self.lwm + len(self._above) == self.trained + self.retired, "every seq is done once"

    def state(self) -> LedgerState:
        """Return the present state."""
        return LedgerState(
            lwm=self.lwm,
            above=tuple(sorted(self._above)),
            trained=self.trained,
            retired=dict(self.reasons),
            batches=self.batches,
            chain=self.chain,
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
        return seq < self.lwm or seq in self._above

    def known_from(self, low: int) -> set[int]:
        """Return all seqs from `low` on that are trained or retired."""
        return {*range(low, self.lwm), *(seq for seq in self._above if seq >= low)}

    def train(self, record: PlanRecord) -> None:
        """Record that the batch of `record` was trained, from the state that it names."""
        assert (record.batch, record.chain) == (self.batches + 1, self.chain), "batches follow each other"
        for group in record.groups:
            self._add(group.seq)
        self.trained += len(record.groups)
        self.batches = record.batch
        self.chain = record.after

    def retire(self, seq: int, reason: str) -> None:
        """Record that `seq` will not be trained."""
        self._add(seq)
        self.reasons[reason] = self.reasons.get(reason, 0) + 1

    def _add(self, seq: int) -> None:
        assert not self.known(seq), f"seq {seq} is done already"
        self._above.add(seq)
        while self.lwm in self._above:
            self._above.remove(self.lwm)
            self.lwm += 1
