"""Filters on a batch of two groups, worked out by hand."""

import torch

from isentrope.learner.objective.stages import filter

GROUP = torch.tensor([4, 4, 4, 9, 9, 2])
CORRECT = torch.tensor([True, False, True, True, True, False])


def test_mixed_groups_keeps_what_differs() -> None:
    kept = [True, True, True, False, False, False]
    assert filter.mixed_groups(CORRECT.float(), GROUP).tolist() == kept
    graded = torch.tensor([0.1, 0.1, 0.1, 0.7, 0.8, 0.0])
    assert filter.mixed_groups(graded, GROUP, CORRECT).tolist() == [False] * 3 + [True] * 2 + [False]
    assert filter.mixed_groups(graded, GROUP, CORRECT, by="correct").tolist() == kept


def test_one_sided_filters() -> None:
    assert filter.correct_only(CORRECT).tolist() == CORRECT.tolist()
    assert filter.incorrect_only(CORRECT).tolist() == [False, True, False, False, False, True]


def test_not_truncated_drops_what_the_limit_cut() -> None:
    assert filter.not_truncated(torch.tensor([True, False])).tolist() == [False, True]
