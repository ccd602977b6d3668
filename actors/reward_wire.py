"""Messages between an actor and a process that runs reward functions: frames, and what an answer may hold.

The process runs the user's code, and may run what a model wrote. What comes from it is data: a length that is limited,
then JSON of one fixed form. What goes to it is pickled, because columns of the data may hold values of any type.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from isentrope.errors import ConfigError, DataError, InternalError, IsentropeError, RewardError
from isentrope.rollout.config import MAX_REWARD
from isentrope.rollout.rewards.functions import MAX_ANSWER_BYTES, MAX_COMPONENTS, Outcome, Score
from isentrope.rollout.rewards.steps import MAX_STEPS, Step, read_steps

LENGTH_BYTES = 8
"""Bytes before each message that hold its length."""

MAX_ANSWER_FRAME_BYTES = 1 << 26
"""Longest answer: 1,024 responses with all their components are less."""

MAX_TEXT = 1 << 12
"""Longest text of an error, in characters; the rest is cut off."""

Call = Literal["load", "score", "probe", "columns"]

_KINDS: dict[str, type[IsentropeError]] = {
    kind.__name__: kind for kind in (ConfigError, DataError, InternalError, RewardError)
}

_Number = Annotated[float, Field(ge=-MAX_REWARD, le=MAX_REWARD)]
_Text = Annotated[str, Field(max_length=MAX_TEXT)]


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Scored(_Message):
    """The score of one response."""

    reward: _Number
    parts: Annotated[dict[_Text, _Number], Field(max_length=MAX_COMPONENTS)]
    answer: Annotated[str, Field(max_length=MAX_ANSWER_BYTES)]
    steps: Annotated[list[Step], Field(max_length=MAX_STEPS)] | None = None


class Failed(_Message):
    """An error: of one response, or of the whole call."""

    kind: Literal["ConfigError", "DataError", "InternalError", "RewardError"]
    what: _Text
    where: _Text
    fix: _Text

    @classmethod
    def of(cls, error: IsentropeError) -> "Failed":
        """Return the message for an error, as one of the kinds that a call may end with."""
        kind = next((name for name in (type(error).__name__,) if name in _KINDS), "InternalError")
        texts = {name: plain_text(getattr(error, name))[:MAX_TEXT] for name in ("what", "where", "fix")}
        return cls.model_validate({"kind": kind, **texts})

    def error(self) -> IsentropeError:
        """Return the error."""
        return _KINDS[self.kind](self.what, where=self.where, fix=self.fix)


class Answer(_Message):
    """The answer to one call."""

    call: int
    """Number of the call, so that what comes late, or from a copy of the process, is not taken for another's."""
    failed: Failed | None = None
    outcomes: list[Scored | Failed] = []
    columns: list[_Text] = []

    @classmethod
    def read(cls, frame: bytes, call: int) -> "Answer":
        """Return the answer that a frame holds; ValueError if it is not one to this call."""
        try:
            answer = cls.model_validate_json(frame)
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False, include_input=False)[0]
            place = ".".join(str(part) for part in first["loc"])
            raise ValueError(f"{place}: {first['msg']}" if place else first["msg"]) from None
        if answer.call != call:
            raise ValueError(f"it belongs to call {answer.call}, and not to call {call}")
        return answer


def to_message(outcome: Outcome) -> Scored | Failed:
    """Return the message for the outcome of one response."""
    if isinstance(outcome, RewardError):
        return Failed.of(outcome)
    parts = {plain_text(name)[:MAX_TEXT]: value for name, value in outcome.parts.items()}
    steps = None if outcome.steps is None else list(outcome.steps)
    return Scored(reward=outcome.reward, parts=parts, answer=plain_text(outcome.answer), steps=steps)


def to_outcome(message: Scored | Failed) -> Outcome:
    """Return the outcome that a message holds; a response's error is a `RewardError` of whatever kind it is."""
    if isinstance(message, Failed):
        return RewardError(message.what, where=message.where, fix=message.fix)
    if message.steps is None:
        return Score(message.reward, message.parts, message.answer)
    try:
        return Score(message.reward, message.parts, message.answer, read_steps(message.steps))
    except ValueError as error:
        return RewardError(str(error))


def plain_text(text: str) -> str:
    """Return a text that UTF-8 can hold: half of a surrogate pair is spelt out."""
    return str(text).encode(errors="backslashreplace").decode()
