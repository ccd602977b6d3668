"""A rule that no response can satisfy is refused, and one that nobody wrote is told."""

import pytest

from isentrope.check.correctness import doubts
from isentrope.errors import ConfigError
from isentrope.rollout.config import DataConfig


def data(correct: str = "", *, reward: str = "m:a") -> DataConfig:
    return DataConfig(train="train.jsonl", reward=reward, correct=correct)


PARTS = [{"m:a": 0.0, "m:a.format": 1.0}, {"m:a": 1.0, "m:a.format": 1.0, "m:a.accuracy": 1.0}]


@pytest.mark.parametrize("source", ["m:a.accurate", "m:a.", "m:a.accuracy.exact"])
def test_a_component_that_its_function_does_not_give_is_refused(source: str) -> None:
    with pytest.raises(ConfigError) as caught:
        doubts(data(f"{source} > 0.9"), PARTS)
    assert caught.value.where == "data.correct" and caught.value.exit_code == 64
    assert source in caught.value.what and "m:a.accuracy, m:a.format" in caught.value.what
    assert 'correct = "m:a.accuracy"' in caught.value.fix


@pytest.mark.parametrize("correct", ["m:a.accuracy", "m:a.format > 0.9", "m:a", "reward > 0.1", "nothing"])
def test_a_rule_about_what_was_seen_has_no_doubts(correct: str) -> None:
    assert doubts(data(correct), PARTS) == []


def test_a_component_of_a_function_that_gave_none_is_told() -> None:
    (note,) = doubts(data("m:a.accuracy"), [{"m:a": 0.0}, {}])
    assert "'m:a.accuracy'" in note and "is not correct" in note


@pytest.mark.parametrize("value", [0.25, 2.0, -1.0])
def test_a_graded_function_is_told_what_counts_as_correct(value: float) -> None:
    (note,) = doubts(data(), [{"m:a": 0.0}, {"m:a": value}])
    assert f"m:a gives {value:g}" in note and "correct above 0.5" in note
    assert 'correct = "nothing"' in note
    assert doubts(data("m:a"), [{"m:a": value}]) == []


def test_a_function_of_0_and_1_has_no_doubts_nor_one_that_was_not_called() -> None:
    assert doubts(data(), PARTS) == doubts(data("m:a.accurate"), []) == []
