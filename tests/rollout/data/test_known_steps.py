"""Steps whose verdict the data holds: what is taken for some, and by what a step of a response is found again."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isentrope.rollout.data.known_steps import MAX_KNOWN_STEPS, normal, read_known_steps


def test_steps_are_pairs_or_maps_and_null_is_none() -> None:
    assert read_known_steps(None) == read_known_steps([]) == {}
    pairs = [["3 + 4 = 7", True], [" so\n 8 ", 0]]
    maps = [{"step": text, "correct": correct} for text, correct in pairs]
    assert read_known_steps(pairs) == read_known_steps(maps) == {"3 + 4 = 7": True, "so 8": False}
    assert read_known_steps([*pairs, ["so 8", False]]) == read_known_steps(pairs)


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("3 + 4 = 7", "are a list"),
        ({"3 + 4 = 7": True}, "are a list"),
        ([["3 + 4 = 7", True]] * (MAX_KNOWN_STEPS + 1), "are a list"),
        (["3 + 4 = 7"], "text, correct"),
        ([["3 + 4 = 7"]], "text, correct"),
        ([["3 + 4 = 7", "yes"]], "true or false"),
        ([["3 + 4 = 7", 2]], "true or false"),
        ([["3 + 4 = 7", None]], "true or false"),
        ([[" \n", True]], "true or false"),
        ([[7, True]], "true or false"),
        ([{"text": "3 + 4 = 7", "correct": True}], "true or false"),
        ([["so 8", True], ["so  8", False]], "as a right step and as a wrong one"),
    ],
)
def test_nothing_else_is(value: object, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        read_known_steps(value)


@given(st.text(alphabet="ab \n\t", max_size=30))
def test_white_space_does_not_tell_steps_apart(text: str) -> None:
    assert normal(f" {text}\n") == normal(text) == normal(normal(text)) == " ".join(text.split())
