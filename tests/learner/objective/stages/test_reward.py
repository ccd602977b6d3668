"""Reward shaping, worked out by hand."""

import pytest
import torch

from isentrope.learner.objective.stages import reward


def test_scheme_replaces_whatever_was_given() -> None:
    given, correct = torch.tensor([0.97, 0.2]), torch.tensor([True, False])
    assert reward.scheme(given, correct, right=1.0, wrong=-1.0).tolist() == [1.0, -1.0]


def test_unlikeliness_ranks_by_mean_log_probability_within_the_group() -> None:
    # Mean log-probabilities -1, -3, -2 of one group (places 0, 1, 2) and one response alone.
    logp = torch.tensor([[-1.0, -1.0], [-3.0, 0.0], [-2.0, -2.0], [-9.0, -9.0]])
    mask = torch.tensor([[True, True], [True, False], [True, True], [True, True]])
    group, one = torch.tensor([0, 0, 0, 1]), torch.ones(4)
    code = reward.unlikeliness(one, logp, mask, group, beta=0.3, rule="code")
    paper = reward.unlikeliness(one, logp, mask, group, beta=0.3, rule="paper")
    # ascending ranks 2, 0, 1 of three: 1 - 0.3 rank / 3; the paper takes another 0.3 / 3
    torch.testing.assert_close(code, torch.tensor([0.8, 1.0, 0.9, 1.0]))
    torch.testing.assert_close(paper, torch.tensor([0.7, 0.9, 0.8, 0.7]))


def test_unlikeliness_by_sum_prefers_short_responses() -> None:
    logp = torch.tensor([[-1.0, -1.0], [-1.5, 0.0]])
    mask = torch.tensor([[True, True], [True, False]])
    keys = {"beta": 0.5, "rule": "code"}
    same = torch.zeros(2, dtype=torch.int64)
    assert reward.unlikeliness(torch.ones(2), logp, mask, same, by="mean", **keys).tolist() == [0.75, 1.0]
    assert reward.unlikeliness(torch.ones(2), logp, mask, same, by="sum", **keys).tolist() == [1.0, 0.75]


@pytest.mark.parametrize(("coef", "expected"), [(0.5, [1.0, 0.5]), (-0.5, [1.0, -0.5])])
def test_stop_properly_multiplies_or_replaces(coef: float, expected: list[float]) -> None:
    assert reward.stop_properly(torch.ones(2), torch.tensor([False, True]), coef=coef).tolist() == expected


def test_soft_overlong_falls_in_the_last_fifth_and_stops_at_the_floor() -> None:
    length = torch.tensor([60, 80, 90, 100, 130])
    shaped = reward.soft_overlong(torch.zeros(5), length, limit=100, buffer=0.2, factor=2.0)
    torch.testing.assert_close(shaped, torch.tensor([0.0, 0.0, -1.0, -2.0, -2.0]))
    without = reward.soft_overlong(torch.zeros(5), length, limit=100, buffer=0.2, factor=2.0, floor=False)
    assert without[4] == -5.0


def test_kl_penalty_is_per_token_and_masked() -> None:
    old, ref = torch.tensor([[-1.0, -2.0]]), torch.tensor([[-1.5, -1.0]])
    found = reward.kl_penalty(old, ref, torch.tensor([[True, False]]), coef=0.1)
    torch.testing.assert_close(found, torch.tensor([[-0.05, 0.0]]))
