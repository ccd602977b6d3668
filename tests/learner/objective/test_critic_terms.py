"""A critic's targets and loss: one episode worked out by hand, and what it changes for the policy."""

import dataclasses

import pytest
import torch
from batches import gradient, halves, objective_of, random_batch, shared_out, without_demonstrations

from isentrope.learner.objective import critic_terms
from isentrope.learner.objective.batch import Batch
from isentrope.learner.objective.objective import Objective


def episode(values: list[float], reward: float) -> Batch:
    """A batch of one response of three tokens, with these values and this reward at its end."""
    one = without_demonstrations(random_batch()).take(torch.tensor([0]))
    shape = one.mask.shape
    valid = (torch.arange(shape[1]) < 3).expand(shape)
    padded = torch.zeros(shape, dtype=torch.float64)
    padded[0, :3] = torch.tensor(values, dtype=torch.float64)
    return dataclasses.replace(
        one,
        mask=valid,
        valid=valid,
        length=torch.tensor([3]),
        truncated=torch.tensor([False]),
        reward=torch.tensor([reward], dtype=torch.float64),
        supplied={"values": padded},
    )


def with_keys(lambda_policy: float, lambda_value: float, gamma: float = 1.0) -> Objective:
    """PPO without whitening, so that its advantages are the estimates themselves."""
    return objective_of(
        "ppo",
        advantage={"baseline": {"lambda_policy": lambda_policy, "gamma": gamma}, "scale": "none"},
        critic={"lambda_value": lambda_value},
    )


def test_targets_of_an_episode_by_hand() -> None:
    """V = 0.2, 0.6, 0.4 and reward 1 give delta = 0.4, -0.2, 0.6; lambda 0.5 gives A = 0.45, 0.1, 0.6."""
    batch = episode([0.2, 0.6, 0.4], 1.0)
    prepared = with_keys(0.5, 0.5).prepare(batch, [torch.tensor([0])])
    assert prepared.returns is not None
    assert prepared.advantage[0].tolist() == pytest.approx([0.45, 0.1, 0.6, *[0.0] * 6], abs=1e-12)
    assert prepared.returns[0].tolist() == pytest.approx([0.65, 0.7, 1.0, *[0.0] * 6], abs=1e-12)


def test_policy_and_critic_have_a_lambda_each() -> None:
    batch = episode([0.2, 0.6, 0.4], 1.0)
    prepared = with_keys(0.0, 1.0, gamma=0.5).prepare(batch, [torch.tensor([0])])
    assert prepared.returns is not None
    assert prepared.advantage[0, :3].tolist() == pytest.approx([0.1, -0.4, 0.6], abs=1e-12)  # r + gamma V' - V
    assert prepared.returns[0, :3].tolist() == pytest.approx([0.25, 0.5, 1.0], abs=1e-12)  # discounted rewards


def test_the_loss_of_an_episode_by_hand() -> None:
    """Targets are 1: values 0.3, 0.9, 0.4 from 0.2, 0.6, 0.4 count as 0.3, 0.8, 0.4, if that is farther."""
    objective, batch = with_keys(0.5, 1.0), episode([0.2, 0.6, 0.4], 1.0)
    prepared = objective.prepare(batch, [torch.tensor([0])])
    now = torch.tensor([[0.3, 0.9, 0.4, *[7.0] * 6]], dtype=torch.float64, requires_grad=True)
    part = critic_terms.loss(objective.critic, prepared, 0, torch.tensor([0]), now)
    assert float(part.loss.detach()) == pytest.approx((0.7**2 + 0.2**2 + 0.6**2) / 2 / 3, abs=1e-12)
    (slope,) = torch.autograd.grad(part.loss, now)
    assert slope[0].tolist() == pytest.approx([-0.7 / 3, 0.0, -0.6 / 3, *[0.0] * 6], abs=1e-12)


def test_explained_variance() -> None:
    returns = torch.tensor([1.0, 0.0, 1.0, 0.0], dtype=torch.float64)
    assert critic_terms.explained_variance(returns, returns) == 1
    assert critic_terms.explained_variance(torch.full_like(returns, 0.3), returns) == pytest.approx(0, abs=1e-12)
    assert critic_terms.explained_variance(returns / 2, returns) == pytest.approx(0.75)
    assert critic_terms.explained_variance(1 - returns, returns) == -3
    assert critic_terms.explained_variance(returns, torch.ones_like(returns)) is None


def test_it_is_measured_against_the_rewards_whatever_the_targets_are() -> None:
    batch = without_demonstrations(random_batch())
    told = [with_keys(0.5, own).prepare(batch, halves(batch)).metrics for own in (0.0, 1.0)]
    assert told[0]["explained_variance"] == told[1]["explained_variance"] < 1
    assert "explained_variance" not in objective_of("grpo").prepare(batch, halves(batch)).metrics


def test_a_lambda_below_one_gives_another_policy_gradient_than_no_baseline() -> None:
    batch = without_demonstrations(random_batch())
    parts = [[rows] for rows in halves(batch)]
    plain, _, _ = gradient(objective_of("ppo", advantage={"baseline": "none"}, critic="none"), batch, parts)
    found, _, _ = gradient(objective_of("ppo"), batch, parts)
    alike = torch.nn.functional.cosine_similarity(found[0].flatten(), plain[0].flatten(), dim=0)
    assert 0 < float(alike) < 0.95


def test_the_value_loss_does_not_depend_on_micro_batches() -> None:
    objective, batch = objective_of("vapo"), without_demonstrations(random_batch())
    prepared = objective.prepare(batch, halves(batch))
    now = batch.supplied["values"] + 0.1

    def slope(parts: list[list[torch.Tensor]]) -> torch.Tensor:
        leaf = now.clone().requires_grad_()
        for update, rows_of in enumerate(parts):
            for rows in rows_of:
                critic_terms.loss(objective.critic, prepared, update, rows, leaf[rows]).loss.backward()
        assert leaf.grad is not None
        return leaf.grad

    whole = slope([[rows] for rows in halves(batch)])
    assert whole.abs().sum() > 0 and not whole[~batch.mask].any()
    for count in (2, 5):
        torch.testing.assert_close(slope(shared_out(halves(batch), count)), whole, rtol=1e-12, atol=1e-15)


def test_a_warm_up_is_counted_in_batches() -> None:
    stage = objective_of("vapo", critic={"warmup_batches": 2}).critic
    assert [critic_terms.warms_up(stage, number) for number in range(4)] == [True, True, False, False]
    assert not critic_terms.warms_up(objective_of("grpo").critic, 0)
