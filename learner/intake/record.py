"""The plan of a batch as the broker keeps it: which entries, under which rule, and from which state.

Records form a hash chain, so a record says which history of batches led to the weights it starts from. A learner that
was restarted may repeat it only from there; then it trains the same batch, although it could have chosen another one.
Knows no groups, only their names.
"""

import hashlib
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, PositiveInt

from isentrope.rollout.wire.control import Mode


class PlannedGroup(NamedTuple):
    """One group of a plan; `entry` binds it to the very payload."""

    seq: int
    attempt: int
    entry: str


class PlanRecord(BaseModel):
    """One batch, written before it is trained."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    batch: PositiveInt
    """Number of the batch: the weights it makes have been trained on so many."""
    mode: Mode
    """The rule its groups were chosen by, and by which they are trained."""
    chain: str
    """Digest of all records before this one; empty before the first batch."""
    groups: tuple[PlannedGroup, ...]

    def encode(self) -> bytes:
        """JSON; equal records have equal bytes."""
        return self.model_dump_json().encode()

    @property
    def after(self) -> str:
        """The chain with this record at its end."""
        return hashlib.blake2b(self.encode(), digest_size=16).hexdigest()
