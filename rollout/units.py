"""Kinds of numbers that a configuration has, each with its unit and with limits on both sides.

A limit is where a value has no sense or no effect that another one would not have: what a machine can do is looked at
by `check`.
"""

from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

BATCH_BITS = 20
"""A version is `incarnation << BATCH_BITS | batch`: never reused, because an incarnation publishes each batch once."""

MAX_RESPONSES = 1024
"""Largest number of responses that one record holds."""

MAX_SECONDS = 30_000_000
"""Longest time limit, a year: clocks and timers overflow at some longer ones."""

MAX_NUMBER = 1e12
"""Largest value of a bound or factor; its square is finite in float32."""

EXACT = 1_000_000_000
"""Whole number below which it is written with all its digits."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Least and largest value of a number, and its unit, as metadata of its type."""

    least: float
    most: float
    unit: str = ""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Return the schema of a number that is refused outside the limits, with both of them."""
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Return what the pages show."""
        return {**handler(schema), "minimum": self.least, "maximum": self.most}

    def _check(self, value: float) -> float:
        if self.least <= value <= self.most:
            return value
        least, most = in_words(self.least), in_words(self.most)
        context = {"least": least, "most": most, "unit": f" {self.unit}" if self.unit else ""}
        raise PydanticCustomError("limits", "Input should be from {least} to {most}{unit}", context)


def in_words(number: float) -> str:
    """Return a number as a page and an error show it."""
    return f"{number}" if isinstance(number, int) and abs(number) < EXACT else f"{number:g}"


Seconds = Annotated[float, Limits(0.1, MAX_SECONDS, "seconds")]
Batches = Annotated[int, Limits(1, (1 << BATCH_BITS) - 1, "batches")]
BatchesOrNone = Annotated[int, Limits(0, (1 << BATCH_BITS) - 1, "batches")]
Updates = Annotated[int, Limits(1, 1 << 16, "updates")]
UpdatesOrNone = Annotated[int, Limits(0, 1 << 30, "updates")]
Passes = Annotated[int, Limits(1, 1000, "passes")]
Prompts = Annotated[int, Limits(1, 1 << 20, "prompts")]
Responses = Annotated[int, Limits(1, MAX_RESPONSES, "responses")]
Tokens = Annotated[int, Limits(1, 1 << 24, "tokens")]
Processes = Annotated[int, Limits(1, 1 << 16, "processes")]
ProcessesOrNone = Annotated[int, Limits(0, 1 << 16, "processes")]
Times = Annotated[int, Limits(1, 1 << 16)]
TimesOrNone = Annotated[int, Limits(0, 1 << 16)]
Copies = Annotated[int, Limits(1, 1 << 16, "copies")]
Bytes = Annotated[int, Limits(1, 1 << 50, "bytes")]
Gib = Annotated[float, Limits(0.01, 1 << 16, "GiB")]
Nats = Annotated[float, Limits(0, MAX_NUMBER, "nats")]
Port = Annotated[int, Limits(0, 65535)]
Temperature = Annotated[float, Limits(0.01, 100)]
Rate = Annotated[float, Limits(1e-12, 1)]
Bound = Annotated[float, Limits(0, MAX_NUMBER)]
Factor = Annotated[float, Limits(-MAX_NUMBER, MAX_NUMBER)]
Share = Annotated[float, Limits(0, 1)]
