"""The learner's signs of life: what it does, since when, and how long its ranks have been silent."""

from pydantic import BaseModel, ConfigDict, ValidationError

HEARTBEAT = "heartbeat"
"""Field of the learner's state, beside its metrics."""


class RankState(BaseModel):
    """One rank of the learner."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rank: int
    place: str
    """Host and process."""
    silent_s: float = 0.0
    """Seconds since its last sign of life, on rank 0's clock."""


class LearnerState(BaseModel):
    """The learner's record, as of its last heartbeat."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    incarnation: int = 0
    doing: str = ""
    """Order that all ranks carry out now; `idle`: rank 0 waits for others."""
    doing_s: float = 0.0
    """Seconds since that order was given."""
    ranks: tuple[RankState, ...] = ()
    """All ranks, by number."""
    quarantined: dict[str, str] = {}
    """Reasons for which actors are in quarantine, by their ids; the newest."""
    beat: int = 0
    """Heartbeat counter; set by the port."""
    at_ms: int = 0
    """Server's time of the heartbeat, in milliseconds; set by the port."""
    silent_s: float = 0.0
    """Seconds since the last heartbeat, by the server's clock at first, then by the reader's; set when read."""

    @property
    def place(self) -> str:
        """Host and process of rank 0; empty: not known."""
        return self.ranks[0].place if self.ranks else ""


def learner_state(record: str) -> LearnerState | None:
    """Return the state that a record holds; None: there is none, or another version of this program wrote it."""
    try:
        return LearnerState.model_validate_json(record)
    except ValidationError:
        return None
