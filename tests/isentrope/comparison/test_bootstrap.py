"""The interval of a difference: how often it calls equal methods different, and how often it holds the truth."""

import numpy as np
import pytest

from isentrope.comparison.bootstrap import Difference, Scores, difference

PROMPTS, SAMPLES = 100, 8


def _answered(rng: np.random.Generator, difficulty: Scores, seeds: int, better: float, spread: float) -> Scores:
    """Shares of right answers to prompts of unlike difficulty; training ends elsewhere with each seed."""
    level = rng.normal(better, spread, (seeds, 1))
    return rng.binomial(SAMPLES, np.clip(difficulty + level, 0.02, 0.98)) / SAMPLES


def compared(number: int, seeds: int, *, better: float = 0.0, spread: float = 0.03) -> Difference:
    """Two methods on the same prompts."""
    rng = np.random.default_rng(number)
    difficulty = rng.uniform(0.15, 0.85, PROMPTS)
    first, second = (_answered(rng, difficulty, seeds, shift, spread) for shift in (better, 0.0))
    return difference(first, second, paired=True)


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_a_method_against_itself_is_different_in_at_most_2_of_20_pairs(seeds: int) -> None:
    verdicts = [compared(number, seeds).verdict for number in range(20)]
    assert sum(verdict != "not distinguishable" for verdict in verdicts) <= 2


@pytest.mark.parametrize("seeds", [3, 5])
def test_the_interval_holds_the_truth_as_often_as_it_says(seeds: int) -> None:
    """Of 120 intervals of 95 %, 107 is 3 standard deviations below the 114 that are expected."""
    held = [compared(1000 + number, seeds, better=0.1) for number in range(120)]
    assert sum(each.low <= 0.1 <= each.high for each in held) >= 107


def test_a_large_difference_is_found() -> None:
    assert [compared(number, 3, better=0.2).verdict for number in range(10)].count("better") >= 9
    assert compared(0, 3, better=-0.2).verdict == "worse"


def test_one_seed_is_about_prompts_alone() -> None:
    assert compared(0, 1, better=0.2, spread=0.0).verdict == "better"


def test_seeds_that_differ_are_drawn_apart() -> None:
    """Seeds move both methods alike: paired, that is gone from the difference."""
    rng = np.random.default_rng(0)
    difficulty, level = rng.uniform(0.3, 0.7, PROMPTS), np.array([[-0.2], [0.0], [0.2]])
    first, second = difficulty + level + 0.05, difficulty + level
    assert difference(first, second, paired=True).verdict == "better"
    assert difference(first, second, paired=False).verdict == "not distinguishable"


def test_the_same_numbers_give_the_same_interval() -> None:
    assert compared(3, 3) == compared(3, 3)
