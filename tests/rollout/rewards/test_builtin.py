"""The built-in rewards."""

import sys
from typing import Any

import pytest

from isentrope.errors import RewardError
from isentrope.rollout.rewards import builtin
from isentrope.rollout.rewards.builtin import exact_match, load_builtin


def test_exact_match_ignores_blanks_around_and_nothing_else() -> None:
    texts: list[Any] = [" 42\n", "42.", "", "4 2", [{"role": "assistant", "content": "42 "}]]
    returned = exact_match(texts, ["42 "] * 5)
    assert [one["reward"] for one in returned] == [1.0, 0.0, 0.0, 0.0, 1.0]
    assert [one["answer"] for one in returned] == ["42", "42.", "", "4 2", "42"]


def test_answers_may_be_numbers() -> None:
    assert [one["reward"] for one in exact_match(["72", "0.5", "72.0"], [72, 0.5, 72])] == [1.0, 1.0, 0.0]


@pytest.mark.parametrize("gold", [None, "", " ", True, ["72"], {"value": 72}])
def test_a_row_without_an_answer_is_a_failure_not_a_wrong_response(gold: object) -> None:
    with pytest.raises(ValueError, match=r"column 'answer' holds .* for completion 1"):
        exact_match(["72", "72"], ["72", gold])


def test_math_without_math_verify_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "math_verify", None)
    with pytest.raises(RewardError) as caught:
        load_builtin("math")
    assert caught.value.fix == "pip install 'isentrope[math]'"


@pytest.mark.parametrize(
    ("text", "gold", "reward"),
    [
        (r"so it is \boxed{72}.", "72", 1.0),
        ("The answer is 72", 72, 1.0),
        (r"$\frac12$", 0.5, 1.0),
        (r"\boxed{x^2+1}", "1+x^2", 1.0),
        ("#### 1,234", "She has 1,000 + 234 = 1,234.\n#### 1,234", 1.0),
        ("first 5, then 7", "5", 0.0),
        ("no idea", "5", 0.0),
        ("", "5", 0.0),
        (r"\boxed{" * 1000, "5", 0.0),
        (r"\boxed{(1, 2)}", "$(1,2)$", 1.0),
    ],
)
def test_math_compares_what_the_response_ends_on(text: str, gold: object, reward: float) -> None:
    assert [one["reward"] for one in builtin.math([text], [gold])] == [reward]


def test_math_refuses_an_answer_without_an_expression() -> None:
    with pytest.raises(ValueError, match="finds no expression"):
        builtin.math(["5"], ["#### "])
