"""Semantic entropy of answers, against counting, and against differences."""

import math
from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from isentrope.learner.objective.stages import modulation

MASK = torch.ones(4, 2, dtype=torch.bool)
LOGP = torch.zeros(4, 2, dtype=torch.float64)


def count_entropy(answers: list[int]) -> torch.Tensor:
    n = len(answers)
    return modulation.answer_entropy(
        torch.tensor(answers), torch.zeros(n, dtype=torch.int64), torch.zeros(n, 1).double(), torch.ones(n, 1).bool()
    )


@given(st.lists(st.integers(0, 4), min_size=1, max_size=12))
def test_count_is_the_entropy_of_the_shares(answers: list[int]) -> None:
    shares = [count / len(answers) for count in Counter(answers).values()]
    expected = -sum(share * math.log(share) for share in shares)
    assert count_entropy(answers).tolist() == pytest.approx([expected] * len(answers), abs=1e-12)


def test_count_changes_with_one_answer_as_its_derivative_says() -> None:
    """Moving a share of 1 / n from answer 0 to answer 1 changes the entropy by log(q_0 / q_1) / n to first order."""
    n, first = 400, 300
    before = float(count_entropy([0] * first + [1] * (n - first))[0])
    after = float(count_entropy([0] * (first - 1) + [1] * (n - first + 1))[0])
    assert after - before == pytest.approx(math.log(3) / n, rel=1e-2)


def test_no_answer_equals_no_other() -> None:
    assert count_entropy([-1, -1]).tolist() == pytest.approx([math.log(2)] * 2)


def test_length_normalised_weighs_by_mean_probability() -> None:
    logp = torch.tensor([[-1.0, -1.0], [-2.0, 0.0], [0.0, 0.0], [0.0, 0.0]], dtype=torch.float64)
    mask = torch.tensor([[True, True], [True, False], [True, True], [True, True]])
    answer, group = torch.tensor([0, 1, 0, 0]), torch.tensor([0, 0, 1, 1])
    found = modulation.answer_entropy(answer, group, logp, mask, estimate="length_normalised")
    weights = torch.tensor([-1.0, -2.0]).exp()
    shares = weights / weights.sum()
    assert found[:2].tolist() == pytest.approx([float(torch.special.entr(shares).sum())] * 2, rel=1e-6)
    assert found[2:].tolist() == pytest.approx([0.0, 0.0], abs=1e-12)


@pytest.mark.parametrize(
    ("shape", "expected"), [("linear", 0.5), ("exponential", math.exp(-0.5)), ("reciprocal", 1 / 1.5), ("focal", 0.25)]
)
def test_factor_falls_with_disagreement(shape: str, expected: float) -> None:
    answer, group = torch.tensor([0, 1, 0, 0]), torch.tensor([0, 0, 1, 1])
    # log 2 of at most log 2, times alpha 0.5; the second group agrees
    found = modulation.semantic_entropy(answer, group, LOGP, MASK, shape=shape, alpha=0.5)  # type: ignore[arg-type]
    assert found.tolist() == pytest.approx([expected, expected, 1.0, 1.0])


def test_a_group_of_one_keeps_its_weight() -> None:
    one = modulation.semantic_entropy(torch.tensor([3]), torch.tensor([0]), LOGP[:1], MASK[:1])
    assert one.tolist() == [1.0]
