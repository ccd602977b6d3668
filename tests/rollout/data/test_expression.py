"""A condition is what it says, and nothing but comparisons is taken for one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isentrope.errors import ConfigError, DataError
from isentrope.rollout.data.expression import Condition


@given(rate=st.floats(-0.5, 1.5), level=st.integers(0, 3))
def test_comparisons_are_those_of_python(rate: float, level: int) -> None:
    values = {"rate": rate, "info.level": level}
    for text in (
        "0 < rate < 1",
        "rate >= .25 and not info.level == 2",
        "(rate <= 0 or rate > 0.75) and info.level != 1",
        "-0.25 < rate",
    ):
        want = eval(text.replace("info.level", "level"), {"rate": rate, "level": level})
        assert Condition(text).holds(values, "row") is want


def test_columns_are_those_that_are_named() -> None:
    assert Condition("0 < b < 1 and a.c == 'x' or b == 2").columns == ["b", "a.c"]


def test_no_comparison_with_null_holds() -> None:
    assert not Condition("a < 1").holds({"a": None}, "row")
    assert not Condition("a != 1").holds({"a": None}, "row")
    assert Condition("not a < 1").holds({"a": None}, "row")


def test_text_of_a_csv_file_is_compared_as_a_number() -> None:
    assert Condition("0 < a < 1").holds({"a": "0.5"}, "row")
    assert Condition("a == 'easy'").holds({"a": "easy"}, "row")
    with pytest.raises(DataError, match="compares") as caught:
        Condition("a < 1").holds({"a": "easy"}, "train.csv:2")
    assert caught.value.where == "data.keep (train.csv:2)"


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("pass_rate", "is not a comparison"),
        ("0 < 1", "names no column"),
        ("a < __import__('os')", "neither a column"),
        ("a.b() > 1", "neither a column"),
        ("a[0] > 1", "neither a column"),
        ("a + 1 > 1", "neither a column"),
        ("a in b", "another comparison"),
        ("a = 1", "cannot be read"),
        ("(" * 500 + "a", "cannot be read"),
        ("a < 1 or " * 200, "characters"),
        ("", "cannot be read"),
    ],
)
def test_anything_else_is_refused(text: str, what: str) -> None:
    with pytest.raises(ConfigError, match=what) as caught:
        Condition(text)
    assert caught.value.where == "data.keep"
