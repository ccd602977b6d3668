"""The control state of a run: mode, state, admission. Pure values: does not import redis.

Admission is the bound on how far issued orders may run ahead of training (`admission_bound`);
`broker/scripts/issue.lua` evaluates the same formula atomically in the broker, and a test holds the two together.
"""

from enum import StrEnum
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

PRESSING = 0.5
"""Share of the byte budget above which a checkpoint is due after a batch, and while groups are waited for."""

FILLED = 0.75
"""Share of the server's memory limit above which it is due too: the limit may be less than the budget."""


class Mode(StrEnum):
    """Overlap of actors and learner."""

    ASYNC = "async"
    ON_POLICY = "on_policy"


class RunState(StrEnum):
    """State of a run: only `run` issues orders; at `drain` actors finish the issued orders, at `stop` they leave."""

    RUN = "run"
    DRAIN = "drain"
    STOP = "stop"


class Desired(BaseModel):
    """Number of actors that an operator wants: a state, which stays until it is replaced."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    actors: Annotated[int, Field(ge=0)]
    id: str
    """Random, another for each time that a number is asked for."""
    at: float
    """Time when it was asked for, in seconds, on the broker's clock."""


class Control(BaseModel):
    """Control state, written by the learner alone; an operator's request is added when it is read."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    mode: Mode
    state: RunState = RunState.RUN
    max_lag: Annotated[int, Field(ge=0)]
    """Admission bound of `async` mode, in batches; `on_policy` admits as if it were 0 and keeps the value for later."""
    note: str = ""
    """Message to the operator: why the last request was refused."""
    goes_on: bool = False
    """At `stop`: batches are left, and no alarm has ended the run, so that the same command goes on with it."""
    served: str = ""
    """Id of the last request that was answered; the learner's port keeps it."""
    requested_mode: Annotated[Mode | None, Field(exclude=True)] = None
    """Mode an operator asks for; None: nothing is asked, or a stop. Never stored."""
    requested_stop: Annotated[bool, Field(exclude=True)] = False
    """An operator asks for the end of the run. Never stored."""
    request: Annotated[str, Field(exclude=True)] = ""
    """Id of that request; empty: none is open. Never stored."""

    @property
    def lag(self) -> int:
        """The admission bound in force, in batches."""
        return 0 if self.mode is Mode.ON_POLICY else self.max_lag


def admission_bound(*, max_lag: int, batches_trained: int, prompts_per_batch: int, retired: int) -> int:
    """Return the largest total of issued seqs: `(max_lag + batches_trained + 1) * prompts_per_batch + retired`.

    A seq issued now is trained at most `max_lag` batches after `batches_trained`, the batch of the newest published
    version, so none of its tokens can be older than that. Retired groups are replaced. At 0 exactly the groups of the
    next batch are issued, which is on-policy admission.
    """
    return (max_lag + batches_trained + 1) * prompts_per_batch + retired
