"""Numbers outside their limits are refused with both of them, and text of numbers is exact where it can be."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from isentrope.rollout.units import EXACT, Nats, Seconds, Tokens, in_words


@given(number=st.floats() | st.integers())
def test_a_number_is_accepted_within_its_limits_alone(number: float) -> None:
    seconds = TypeAdapter(Seconds)
    try:
        assert 0.1 <= seconds.validate_python(number) <= 30_000_000
    except ValidationError:
        assert not 0.1 <= number <= 30_000_000


@pytest.mark.parametrize(
    ("kind", "value", "says"),
    [(Tokens, 0, "from 1 to 16777216 tokens"), (Nats, 1e300, "from 0 to 1e+12 nats"), (Tokens, 1.5, "a valid integer")],
)
def test_a_refusal_says_what_is_allowed(kind: Any, value: object, says: str) -> None:
    with pytest.raises(ValidationError, match=says.replace("+", r"\+")):
        TypeAdapter(kind).validate_json(json.dumps(value), strict=True)


@given(number=st.integers(-EXACT + 1, EXACT - 1))
def test_whole_numbers_are_shown_with_all_their_digits(number: int) -> None:
    assert int(in_words(number)) == number
