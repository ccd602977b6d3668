"""Corrections on two responses of two tokens with weights 2, 0.5 and 1, 4, worked out by hand."""

import math

import pytest
import torch

from isentrope.learner.objective.stages import correction

W = torch.tensor([[2.0, 0.5], [1.0, 4.0]], dtype=torch.float64)
OLD, ROLLOUT = W.log(), torch.zeros_like(W)
MASK = torch.ones_like(W, dtype=torch.bool)


def test_truncate_by_token_and_by_response() -> None:
    assert correction.truncate(OLD, ROLLOUT, MASK, high=1.5, low=0.6).tolist() == [[1.5, 0.6], [1.0, 1.5]]
    torch.testing.assert_close(
        correction.truncate(OLD, ROLLOUT, MASK, high=3.0, level="sequence"),
        torch.tensor([[1.0, 1.0], [3.0, 3.0]], dtype=torch.float64),
    )


def test_normalize_divides_by_the_mean() -> None:
    mask = torch.tensor([[True, True], [True, False]])
    found = correction.truncate(OLD, ROLLOUT, mask, high=10.0, normalize=True)
    torch.testing.assert_close(found[mask], torch.tensor([2.0, 0.5, 1.0]).double() / (3.5 / 3))
    by_response = correction.truncate(OLD, ROLLOUT, mask, high=10.0, level="sequence", normalize=True)
    torch.testing.assert_close(by_response[:, 0], torch.ones(2, dtype=torch.float64))


def test_band_drops_what_is_outside() -> None:
    torch.testing.assert_close(
        correction.band(OLD, ROLLOUT, MASK, low=0.6, high=3.0), torch.tensor([[2.0, 0.0], [1.0, 0.0]]).double()
    )


def test_truncate_current_follows_the_current_policy() -> None:
    logp = torch.tensor([[math.log(3.0), math.log(9.0)]], requires_grad=True)
    old, rollout = torch.full((1, 2), math.log(2.0)), torch.full((1, 2), math.log(0.2))
    whole = correction.truncate_current(logp, old, torch.zeros(1, 2), high=5.0)
    torch.testing.assert_close(whole, torch.tensor([[3.0, 5.0]]))
    mismatch = correction.truncate_current(logp, old, rollout, high=5.0, of="mismatch")
    torch.testing.assert_close(mismatch, torch.tensor([[7.5, 22.5]]))
    assert not whole.requires_grad and not mismatch.requires_grad


@pytest.mark.parametrize(
    ("keys", "kept"),
    [
        ({"statistic": "ratio", "high": 2.5}, [[1, 1], [1, 0]]),
        ({"statistic": "ratio", "low": 0.9, "high": 2.5}, [[1, 0], [1, 0]]),
        ({"statistic": "k1", "low": -1.0, "high": 0.5}, [[1, 0], [1, 0]]),
        ({"statistic": "k2", "high": 0.25}, [[1, 1], [1, 0]]),  # 0.24, 0.24, 0, 0.96
        ({"statistic": "k3", "high": 0.25}, [[0, 1], [1, 0]]),  # 0.31, 0.19, 0, 1.61
        ({"statistic": "ratio", "over": "mean", "high": 1.5}, [[1, 1], [0, 0]]),  # geometric means 1 and 2
        ({"statistic": "ratio", "over": "sum", "high": 3.0}, [[1, 1], [0, 0]]),
        ({"statistic": "k2", "over": "max", "high": 0.5}, [[1, 1], [0, 0]]),
        ({"statistic": "k3", "over": "mean", "high": 0.5}, [[1, 1], [0, 0]]),  # 0.25 and 0.81
    ],
)
def test_reject_by_each_statistic(keys: dict[str, object], kept: list[list[int]]) -> None:
    found = correction.reject(OLD, ROLLOUT, MASK, weigh=False, **keys)  # type: ignore[arg-type]
    assert found.tolist() == kept


def test_reject_weighs_by_the_geometric_mean_of_a_response() -> None:
    found = correction.reject(OLD, ROLLOUT, MASK, statistic="ratio", over="mean", high=5.0)
    torch.testing.assert_close(found, torch.tensor([[1.0, 1.0], [2.0, 2.0]]).double())


def test_second_moment_drops_the_largest_until_the_rest_is_below() -> None:
    # squares 0.48, 0.48, 0, 1.92: without the last the mean is 0.32
    assert correction.second_moment(OLD, ROLLOUT, MASK, threshold=0.4).tolist() == [[1.0, 1.0], [1.0, 0.0]]
    assert correction.second_moment(OLD, ROLLOUT, MASK, threshold=1e-9).sum() == 1


def test_a_weight_never_overflows() -> None:
    assert correction.importance(torch.full((1, 1), 900.0), torch.zeros(1, 1), MASK[:1, :1]).isfinite().all()
