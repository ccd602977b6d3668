"""Filters on a batch of two groups, worked out by hand."""

import torch

from isentrope.learner.objective.stages import filter

GROUP = torch.tensor([4, 4, 4, 9, 9, 2])
CORRECT = torch.tensor([True, False, True, True, True, False])


def test_mixed_groups_keeps_what_has_both_outcomes() -> None:
    assert filter.mixed_groups(CORRECT, GROUP).tolist() == [True, True, True, False, False, False]


def test_one_sided_filters() -> None:
    assert filter.correct_only(CORRECT).tolist() == CORRECT.tolist()
    assert filter.incorrect_only(CORRECT).tolist() == [False, True, False, False, False, True]


def test_not_truncated_drops_what_the_limit_cut() -> None:
    assert filter.not_truncated(torch.tensor([True, False])).tolist() == [False, True]
