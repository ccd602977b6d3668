"""Baselines and scales on small groups, worked out by hand."""

import math
from typing import Literal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from isentrope.learner.objective.stages import advantage

GROUP = torch.tensor([5, 5, 5, 8, 8, 1])
REWARD = torch.tensor([1.0, 0.0, 0.0, 1.0, 1.0, 1.0], dtype=torch.float64)


def listed(value: Tensor) -> list[float]:
    return [round(x, 12) for x in value.tolist()]


def test_group_mean() -> None:
    assert advantage.group_mean(REWARD, GROUP).tolist() == pytest.approx([2 / 3, -1 / 3, -1 / 3, 0, 0, 0])


def test_leave_one_out() -> None:
    assert listed(advantage.leave_one_out(REWARD, GROUP)) == [1.0, -0.5, -0.5, 0.0, 0.0, 0.0]


def test_none_and_constant_and_greedy() -> None:
    correct = REWARD > 0
    assert listed(advantage.none(REWARD)) == listed(REWARD)
    assert listed(advantage.constant(REWARD, correct, right=0.0, wrong=1.0)) == [1.0, -1.0, -1.0, 1.0, 1.0, 1.0]
    assert listed(advantage.greedy(REWARD, torch.full_like(REWARD, 0.25))) == [0.75, -0.25, -0.25, 0.75, 0.75, 0.75]


def test_length_weighted() -> None:
    mask = torch.arange(4) < torch.tensor([1, 2, 1, 3, 1, 2])[:, None]
    # baseline of the first group: (1 * 1 + 2 * 0 + 1 * 0) / 4
    assert listed(advantage.length_weighted(REWARD, GROUP, mask)) == [0.75, -0.25, -0.25, 0.0, 0.0, 0.0]


def test_best_of_group_credits_the_best_alone() -> None:
    reward = torch.tensor([0.2, 0.9, 0.5, 1.0, 1.0, 3.0])
    torch.testing.assert_close(advantage.best_of_group(reward, GROUP), torch.tensor([0, 0.4, 0, 0, 0, 0]))


def test_max_likelihood_divides_by_the_pass_rate() -> None:
    found = advantage.max_likelihood(REWARD, GROUP, eps=0.0)
    torch.testing.assert_close(found, torch.tensor([2.0, -1.0, -1.0, 0.0, 0.0, 0.0], dtype=torch.float64))


def test_returns_step_over_masked_tokens() -> None:
    token_reward = torch.tensor([[1.0, 7.0, 2.0, 4.0]])
    mask = torch.tensor([[True, False, True, True]])
    # 4; 2 + 4/2; 1 + (2 + 4/2)/2
    assert advantage.returns(token_reward, mask, gamma=0.5).tolist() == [[3.0, 0.0, 4.0, 4.0]]


def test_gae_bridges_masked_tokens() -> None:
    values = torch.tensor([[0.5, 9.0, 0.25]], dtype=torch.float64)
    token_reward = torch.tensor([[0.0, 5.0, 1.0]], dtype=torch.float64)
    mask = torch.tensor([[True, False, True]])
    found = advantage.gae(token_reward, values, mask, gamma=0.9, lambda_policy=0.8)
    last = 1 - 0.25
    first = 0.9 * 0.25 - 0.5 + 0.9 * 0.8 * last
    assert listed(found[0]) == [round(first, 12), 0.0, last]
    targets = advantage.value_targets(token_reward, values, mask, gamma=1.0, lambda_value=1.0)
    assert listed(targets[0]) == [1.0, 0.0, 1.0]  # the rewards to go


def test_length_adaptive_lambda() -> None:
    mask = torch.arange(40) < torch.tensor([40, 10])[:, None]
    assert listed(advantage.adaptive_lambda(mask, 0.05)) == [0.5, 0.0]


def test_token_optimal_weighs_by_the_squared_score_so_far() -> None:
    mask = torch.tensor([[True, True], [True, False]])
    token_reward = torch.tensor([[0.0, 1.0], [0.0, 0.0]], dtype=torch.float64)
    logp = torch.tensor([[0.5, 0.5], [0.25, 1.0]], dtype=torch.float64).log()
    sum_p2 = torch.tensor([[0.5, 0.5], [0.5, 1.0]], dtype=torch.float64)
    group = torch.zeros(2, dtype=torch.int64)
    # 1 - 2p + sum p^2: 0.5 and 1.0 at the first token; returns 1 and 0
    baseline = 0.5 * 1 / (0.5 + 1.0)
    found = advantage.token_optimal(token_reward, group, mask, logp, sum_p2, eps=0.0)
    assert found.flatten().tolist() == pytest.approx([1 - baseline, 1.0, -baseline, 0.0])


def test_group_std_is_unbiased() -> None:
    a = advantage.group_mean(REWARD, GROUP)[:, None]
    std = math.sqrt((4 + 1 + 1) / 9 / 2)
    found = advantage.group_std(a, REWARD, GROUP, eps=0.0)[:3, 0]
    assert found.tolist() == pytest.approx([2 / 3 / std, -1 / 3 / std, -1 / 3 / std])


def test_leave_one_out_std_leaves_alone_what_has_none() -> None:
    reward, group = torch.tensor([1.0, 0.0, 0.0, 0.0], dtype=torch.float64), torch.zeros(4, dtype=torch.int64)
    a = advantage.leave_one_out(reward, group)[:, None]
    found = advantage.leave_one_out_std(a, reward, group, eps=0.0)[:, 0]
    torch.testing.assert_close(found, torch.tensor([1.0] + [-math.sqrt(1 / 3)] * 3, dtype=torch.float64))


def test_whiten_is_over_tokens() -> None:
    a = torch.tensor([[1.0, 1.0], [4.0, 9.0]], dtype=torch.float64)
    mask = torch.tensor([[True, True], [True, False]])
    # mean 2, unbiased variance (1 + 1 + 4) / 2
    found = advantage.whiten(a, mask, eps=0.0)
    expected = torch.tensor([[-1.0, -1.0], [2.0, 0.0]], dtype=torch.float64) / math.sqrt(3)
    torch.testing.assert_close(found, expected)
    kept_mean = advantage.whiten(a, mask, eps=0.0, centre=False)
    torch.testing.assert_close(kept_mean[mask], (found + 2)[mask])


def test_signs_and_shares() -> None:
    a, reward = torch.tensor([[2.0], [-2.0], [0.0]]), torch.tensor([1.0, 0.0, 0.0])
    assert advantage.signs(a, positive=0.5, negative=3.0).flatten().tolist() == [1.0, -6.0, 0.0]
    assert advantage.nonzero_share(a, reward, torch.ones(3, 1, dtype=torch.bool)).flatten().tolist() == [6.0, -6.0, 0.0]
    empty = torch.tensor([[True], [True], [False]])
    assert advantage.nonzero_share(a, reward, empty).flatten().tolist() == [4.0, -4.0, 0.0]
    assert torch.equal(advantage.unscaled(a), a)


def test_outcome_goes_to_the_last_masked_token() -> None:
    mask = torch.tensor([[True, True, False], [False, False, False]])
    found = advantage.outcome_rewards(torch.tensor([2.0, 5.0]), torch.full((2, 3), 0.5), mask)
    assert found.tolist() == [[0.5, 2.5, 0.0], [0.0, 0.0, 0.0]]


@pytest.mark.parametrize("baseline", [advantage.group_mean, advantage.leave_one_out, advantage.max_likelihood])
@given(value=st.floats(0.0625, 8, width=32), size=st.integers(1, 13))
def test_equal_rewards_give_exactly_no_advantage(baseline, value: float, size: int) -> None:  # type: ignore[no-untyped-def]
    reward, group = torch.full((size,), value), torch.zeros(size, dtype=torch.int64)
    scaled = advantage.group_std(baseline(reward, group)[:, None], reward, group)
    assert not scaled.any()


def test_a_teacher_gives_credit_whose_mean_is_the_divergence() -> None:
    p, q = (torch.tensor(x, dtype=torch.float64) for x in ([0.5, 0.3, 0.2], [0.25, 0.25, 0.5]))
    logits = p.log().clone().requires_grad_()
    logp = torch.log_softmax(logits, 0)
    exact = {"reverse": (logp.exp() * (logp - q.log())).sum(), "forward": (q * (q.log() - logp)).sum()}
    mask = torch.ones(3, 1, dtype=torch.bool)
    for divergence, value in exact.items():
        a = advantage.teacher(p.log()[:, None], q.log()[:, None], mask, divergence=divergence)[:, 0]  # type: ignore[arg-type]
        (expected,) = torch.autograd.grad(value, logits, retain_graph=True)
        (found,) = torch.autograd.grad(-(p * a * logp).sum(), logits, retain_graph=True)
        torch.testing.assert_close(found, expected)
    far = advantage.teacher(torch.tensor([[-50.0]]), torch.tensor([[0.0]]), mask[:1], limit=3.0)
    assert far.item() == 3.0


def test_per_reward_keeps_apart_what_the_sum_of_rewards_hides() -> None:
    group, mask = torch.tensor([0, 0, 1, 1]), torch.ones(4, 2, dtype=torch.bool)
    parts = torch.tensor([[0.0, 0], [1, 0], [0, 0], [1, 1]], dtype=torch.float64)
    found = advantage.per_reward(parts, (1.0, 1.0), group, mask)
    low, high = math.sqrt(0.3), math.sqrt(1.2)  # of 0.707 and 1.414 over their deviation sqrt(5 / 3)
    assert found.tolist() == pytest.approx([-low, low, -high, high], rel=1e-3)
    by_sum = advantage.group_std(advantage.group_mean(parts.sum(1), group)[:, None], parts.sum(1), group)
    assert by_sum[0].item() == pytest.approx(by_sum[2].item(), rel=1e-5)


def test_per_reward_takes_no_part_of_a_function_that_did_not_apply_or_of_a_response_that_is_not_trained() -> None:
    group, mask = torch.tensor([0, 0, 0, 1]), torch.ones(4, 1, dtype=torch.bool)
    mask[3] = False
    parts = torch.tensor([[0.0, 3], [1, math.nan], [1, math.nan], [5, 5]], dtype=torch.float64)
    found = advantage.per_reward(parts, (2.0, 1.0), group, mask)
    assert found[:3].tolist() == pytest.approx([-2 / math.sqrt(3), 1 / math.sqrt(3), 1 / math.sqrt(3)], rel=1e-3)
    assert found[3].item() == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize(
    ("entropy", "progress", "shape", "expected"),
    [
        (0.66, 0.0, "linear", "group"),
        (0.71, 0.0, "linear", "right"),
        (0.59, 0.0, "linear", "wrong"),
        (0.61, 0.5, "linear", "right"),
        (0.49, 0.5, "linear", "wrong"),
        (0.51, 1.0, "linear", "right"),
        # (1 - cos(pi / 4)) / 2 = 0.146 of the way: bounds 0.571 and 0.671; in a line they would be 0.55 and 0.65
        (0.66, 0.25, "cosine", "group"),
        (0.56, 0.25, "cosine", "wrong"),
    ],
)
def test_entropy_range_takes_credit_by_the_entropy_of_the_batch(
    entropy: float, progress: float, shape: Literal["linear", "cosine"], expected: str
) -> None:
    reward = torch.tensor([1.0, -1.0, 1.0, -1.0], dtype=torch.float64)
    group, mask = torch.tensor([0, 0, 0, 1]), torch.ones(4, 2, dtype=torch.bool)
    mask[3, 1] = False
    h = torch.full((4, 2), entropy, dtype=torch.float64)
    h[3, 1] = 9.0
    found = advantage.entropy_range(reward, group, mask, h, progress, shape=shape)
    third = 1 / math.sqrt(3)  # mean 1/3, deviation 2 / sqrt(3)
    by_name = {"group": [third, -2 * third, third, 0.0], "right": [1.0, 0, 1.0, 0], "wrong": [0, -1.0, 0, -1.0]}
    assert found.tolist() == pytest.approx(by_name[expected], rel=1e-5)
