"""The stored plan of a batch: its entries, its mode, and the state it starts from.

Records form a hash chain, so a record identifies the history of batches that led to the weights it starts from. A
restarted learner may repeat it only from there; then it trains the same batch, although it could have chosen another.
"""

import hashlib
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, PositiveInt

from isentrope.rollout.wire.control import Mode


class PlannedGroup(NamedTuple):
    """One group of a plan; `entry` binds it to this payload."""

    seq: int
    attempt: int
    entry: str


class PlanRecord(BaseModel):
    """One batch, written before it is trained."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    batch: PositiveInt
    """Number of batches trained on, this one included."""
    mode: Mode
    """Mode by which its groups were chosen and are trained."""
    chain: str
    """Digest of all records before this one; empty before the first batch."""
    groups: tuple[PlannedGroup, ...]

    def encode(self) -> bytes:
        """Return the record as JSON; equal records have equal bytes."""
        return self.model_dump_json().encode()

    @property
    def after(self) -> str:
        """Digest of the chain that ends with this record."""
        return hashlib.blake2b(self.encode(), digest_size=16).hexdigest()
