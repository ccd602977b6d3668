"""Reductions as weights, worked out by hand: responses of 3, 1, 0 and 2 tokens in two groups."""

import pytest
import torch

from isentrope.learner.objective.stages import reduce

MASK = torch.arange(3) < torch.tensor([3, 1, 0, 2])[:, None]
GROUP = torch.tensor([7, 7, 3, 3])


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        (reduce.token_mean(MASK), [1 / 6, 1 / 6, 1 / 6, 1 / 6]),
        (reduce.group_token_mean(MASK, GROUP), [1 / 8, 1 / 8, 1 / 4, 1 / 4]),
        (reduce.seq_token_mean(MASK), [1 / 9, 1 / 3, 0, 1 / 6]),
        (reduce.seq_sum(MASK), [1 / 3, 1 / 3, 1 / 3, 1 / 3]),
        (reduce.seq_sum_constant(MASK, constant=10), [1 / 30, 1 / 30, 1 / 30, 1 / 30]),
        (reduce.sum_constant(MASK, constant=10), [0.1, 0.1, 0.1, 0.1]),
    ],
    ids=["token_mean", "group_token_mean", "seq_token_mean", "seq_sum", "seq_sum_constant", "sum_constant"],
)
def test_weight_of_a_token(weights: torch.Tensor, expected: list[float]) -> None:
    # where a response has no tokens its weight meets none
    torch.testing.assert_close(weights, torch.tensor(expected, dtype=torch.float64))


def test_an_empty_group_counts_nowhere() -> None:
    mask = MASK.clone()
    mask[3] = False
    torch.testing.assert_close(
        reduce.group_token_mean(mask, GROUP)[:2], torch.tensor([1 / 4, 1 / 4], dtype=torch.float64)
    )


def test_nothing_at_all_has_no_infinite_weight() -> None:
    empty = torch.zeros(2, 3, dtype=torch.bool)
    for weights in (reduce.token_mean(empty), reduce.seq_token_mean(empty), reduce.group_token_mean(empty, GROUP[:2])):
        assert weights.isfinite().all()
