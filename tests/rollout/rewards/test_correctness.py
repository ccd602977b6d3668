"""What `data.correct` may say, what a run with several reward functions must say, and what is then correct."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wire_records import make_response

from isentrope.errors import ConfigError
from isentrope.rollout.config import DataConfig
from isentrope.rollout.rewards.correctness import Correctness, correctness_of, judge

TWO = ["rewards:accuracy", "rewards:form"]


def rule_of(correct: str, functions: list[str] = TWO) -> Correctness | None:
    return correctness_of(DataConfig(train="train.jsonl", reward=functions, correct=correct))


@pytest.mark.parametrize(
    ("correct", "rule"),
    [
        ("rewards:accuracy", Correctness("rewards:accuracy", 0.5)),
        ("rewards:form > 0.9", Correctness("rewards:form", 0.9)),
        ("rewards:accuracy.exact>0", Correctness("rewards:accuracy.exact", 0.0)),
        ("reward > 1.5", Correctness("reward", 1.5)),
        (" reward > -1e-3 ", Correctness("reward", -1e-3)),
        ("nothing", None),
    ],
)
def test_a_rule_is_read_as_it_stands(correct: str, rule: Correctness | None) -> None:
    assert rule_of(correct) == rule
    assert rule is None or rule_of(str(rule)) == rule


@pytest.mark.parametrize("correct", ["reward > much", "reward >= 1", "a b", "> 1", "reward > nan", "reward > 1 > 2"])
def test_another_form_is_refused_with_those_there_are(correct: str) -> None:
    with pytest.raises(ConfigError, match="does not say what is correct") as caught:
        rule_of(correct)
    assert '"reward > 1.5"' in caught.value.fix and '"nothing"' in caught.value.fix


def test_the_sum_alone_has_no_natural_threshold() -> None:
    with pytest.raises(ConfigError, match="above which reward"):
        rule_of("reward")


def test_another_function_is_refused_with_the_one_that_was_meant() -> None:
    with pytest.raises(ConfigError, match="not one of the reward functions") as caught:
        rule_of("rewards:accurate > 0.5")
    assert '"rewards:accuracy"' in caught.value.fix


def test_several_functions_need_a_rule_and_the_line_to_paste_is_one() -> None:
    with pytest.raises(ConfigError, match="2 reward functions") as caught:
        rule_of("")
    line = caught.value.fix.partition('correct = "')[2].partition('"')[0]
    assert rule_of(line) == Correctness(TWO[0], 0.5)


def test_the_threshold_that_is_offered_fits_the_weights() -> None:
    data = DataConfig(train="train.jsonl", reward=TWO, reward_weights=[1.0, 0.2])
    with pytest.raises(ConfigError) as caught:
        correctness_of(data)
    assert '"reward > 1.1"' in caught.value.fix


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (DataConfig(train="train.jsonl", reward="exact_match"), "exact_match"),
        (DataConfig(train="train.jsonl", reward=["exact_match"]), "exact_match"),
        (DataConfig(train="task:digit_walk"), "task:digit_walk"),
    ],
)
def test_the_only_function_decides(data: DataConfig, name: str) -> None:
    assert correctness_of(data) == Correctness(name, 0.5)


@given(accuracy=st.floats(-1, 2), form=st.floats(-1, 2), weight=st.floats(0.1, 10))
def test_only_the_named_value_counts(accuracy: float, form: float, weight: float) -> None:
    parts = {"rewards:accuracy": accuracy, "rewards:form": form}
    response = make_response(0, reward=weight * accuracy + form, reward_parts=parts)
    assert judge(rule_of("rewards:accuracy"), [response]) == [accuracy > 0.5]
    assert judge(rule_of("reward > 1.5"), [response]) == [weight * accuracy + form > 1.5]
    assert judge(rule_of("nothing"), [response]) is None


def test_a_function_that_did_not_apply_makes_nothing_correct() -> None:
    response = make_response(0, reward=9.0, reward_parts={"rewards:form": 9.0})
    assert judge(rule_of("rewards:accuracy > -9"), [response]) == [False]
