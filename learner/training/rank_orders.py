"""Arguments of the orders of rank 0: one record per order, as bytes that hold no code."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol, Self

from pydantic import BaseModel, ConfigDict

from isentrope.learner.intake.ragged import RaggedBatch
from isentrope.learner.objective.objective import ControllerStates
from isentrope.learner.training.checkpoint_store import FileFacts
from isentrope.learner.training.trainer import Schedule
from isentrope.rollout.wire.proof import CanaryTokens


class Arguments(Protocol):
    """Interface of every record here."""

    def to_bytes(self) -> bytes: ...

    @classmethod
    def from_bytes(cls, blob: bytes) -> Self: ...


class JsonArguments(BaseModel):
    """Arguments of an order, as JSON; this class itself holds none."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def to_bytes(self) -> bytes:
        """Return the record as JSON."""
        return self.model_dump_json().encode()

    @classmethod
    def from_bytes(cls, blob: bytes) -> Self:
        """Return what `to_bytes` wrote."""
        return cls.model_validate_json(blob)


class CheckArguments(JsonArguments):
    """A checkpoint that may be damaged."""

    folder: Path
    files: dict[str, FileFacts]


class BuildArguments(JsonArguments):
    """Sources of the network's weights."""

    checkpoint: Path | None
    """None: the optimizer is new, and the weights are the model's own."""
    universal: bool = False
    """The checkpoint is in its universal form, because another number of ranks wrote it."""
    begins: Path | None = None
    """The checkpoint as another run wrote it, if it is that run's; this one may have another model, and a critic."""
    reference: Path | None
    """None: the reference policy, if there is one, is the model itself."""


class VersionArguments(JsonArguments):
    """A version of the weights."""

    version: int


class PublishArguments(VersionArguments):
    """A version of the weights to be written."""

    canary: CanaryTokens
    """Tokens whose log-probabilities go with it."""


class FolderArguments(JsonArguments):
    """A checkpoint's folder."""

    folder: Path


class SaveArguments(FolderArguments):
    """A checkpoint to be written; its folder is empty."""

    batch: int


@dataclass(frozen=True, slots=True)
class TrainArguments:
    """A batch, how it is divided, and the state of the objective's controllers before it."""

    ragged: RaggedBatch | None
    """The whole batch on rank 0, which deals the others their shares (`trainer.py`); None there."""
    schedule: Schedule
    state: ControllerStates

    def to_bytes(self) -> bytes:
        """Return schedule and state as JSON."""
        return json.dumps([asdict(self.schedule), self.state]).encode()

    @classmethod
    def from_bytes(cls, blob: bytes) -> Self:
        """Return what `to_bytes` wrote."""
        schedule, state = json.loads(blob)
        return cls(None, Schedule(**schedule), state)


@dataclass(frozen=True, slots=True)
class ScoreArguments:
    """Responses to be scored."""

    ragged: RaggedBatch | None
    """As in `TrainArguments`."""

    def to_bytes(self) -> bytes:
        """Return nothing: each rank is dealt its share."""
        return b""

    @classmethod
    def from_bytes(cls, blob: bytes) -> Self:
        """Return what another rank knows before."""
        return cls(None)
