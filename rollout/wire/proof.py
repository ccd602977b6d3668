"""Proof that an engine serves the policy that was published: the learner's part in files beside the shards, and the
engine's finding for its heartbeat. Imports neither torch nor redis.

    tensors.json    dtype, shape and a hash of the bits of every tensor, taken from the learner's memory
    canary.json     some tokens, and the log-probabilities that the learner's own policy gives them

The hashes show which bits an engine has read; the log-probabilities, what it makes of them. Neither can replace the
other: in bfloat16 a small step disappears in the noise of log-probabilities, and a hash knows nothing of a bias that an
engine leaves out.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, NamedTuple, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from isentrope.errors import StorageError

TENSORS = "tensors.json"
CANARY = "canary.json"


class TensorFacts(NamedTuple):
    """One published tensor."""

    dtype: str
    """Without `torch.`."""
    shape: tuple[int, ...]
    bits: str
    """Hash of its bits; see `tensor_bits.py`."""


TensorTable: TypeAlias = Mapping[str, TensorFacts]
"""Facts of all published tensors, by name."""


class CanaryTokens(BaseModel):
    """Tokens of a canary."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tokens: Annotated[tuple[int, ...], Field(min_length=2)]
    arbitrary: bool = False
    """True before a batch was trained; log-probabilities of such tokens carry more rounding noise than a batch's."""


class Canary(CanaryTokens):
    """Tokens and the policy's log-probabilities of them, at temperature 1."""

    logp: tuple[float, ...]
    """Of every token but the first, after those before it, in nats."""


class Proof(BaseModel):
    """Finding of an engine about the version that it serves."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    tensors: Annotated[int, Field(ge=0, lt=1 << 63)]
    """Tensors whose bits were those of the learner's memory."""
    gap_mean: float | None = None
    """Mean absolute difference between the engine's log-probabilities of the canary and the learner's, nats; None: the
    version has no canary, or the engine cannot compute it."""
    gap_max: float | None = None
    """Largest such difference, nats."""
    limit: float | None = None
    """Mean above which the version would have been refused, nats."""
    seconds: float = 0.0
    """Time that the canary took while nothing was served."""


_TABLE = TypeAdapter(dict[str, TensorFacts])


def tensors_text(table: TensorTable) -> str:
    """Return the content of `tensors.json`: equal tables give equal text."""
    return json.dumps(dict(sorted(table.items())), separators=(",", ":"))


def parse_tensors(content: bytes) -> dict[str, TensorFacts]:
    """Return the table of a `tensors.json`; ValueError if it is none."""
    return _TABLE.validate_json(content)


def read_canary(folder: Path) -> Canary:
    """Return the canary of a version; StorageError if it cannot be read."""
    path = folder / CANARY
    try:
        return Canary.model_validate_json(path.read_bytes())
    except OSError as error:
        raise StorageError(f"canary cannot be read: {error.strerror}", where=str(path)) from None
    except ValidationError as error:
        raise StorageError(f"no canary: {error.error_count()} fields are wrong", where=str(path)) from None
