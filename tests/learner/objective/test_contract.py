"""What holds for every preset, whatever it does: found in `learner/methods`, tested without being named.

The batches hold what a run may bring: ragged responses, a response without any trainable token, a group of one, a group
without variance, stale tokens, a demonstration (see `batches.random_batch`).
"""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from batches import (
    current_policy,
    gradient,
    gradient_by_ranks,
    halves,
    objective_of,
    random_batch,
    shared_out,
    without_demonstrations,
)

from isentrope.learner.objective.batch import Batch
from isentrope.learner.objective.objective import Objective
from isentrope.learner.objective.presets import method_names, read_preset

METHODS = method_names()
EXACT: dict[str, Any] = {"rtol": 1e-12, "atol": 1e-15}


def one_each(batch: Batch) -> list[list[torch.Tensor]]:
    """Every update in one micro-batch."""
    return [[rows] for rows in halves(batch)]


def policy_only(objective: Objective) -> Objective:
    """Without divergences, bonus and auxiliary terms."""
    still = {**objective.entropy.params, "coef": 0.0}
    entropy = dataclasses.replace(objective.entropy, params=still)
    control = tuple(stage for stage in objective.control if stage.params["of"].startswith("tokens."))
    return dataclasses.replace(objective, kl=(), aux=(), entropy=entropy, control=control)


@pytest.mark.parametrize("method", METHODS)
def test_says_what_it_is(method: str) -> None:
    preset = read_preset(method, Path("/"))
    assert preset.name and preset.differs.endswith(".")
    assert all(link.startswith("https://") for link in preset.paper.split())


@pytest.mark.parametrize("method", METHODS)
def test_on_policy_the_gradient_is_minus_advantage_times_weight(method: str) -> None:
    batch = without_demonstrations(random_batch())
    batch = dataclasses.replace(batch, logp_rollout=batch.statistics.logp, lag=torch.zeros_like(batch.lag))
    objective = policy_only(objective_of(method))
    found, _, _ = gradient(objective, batch, one_each(batch), policy=batch.statistics[:2])
    prepared = objective.prepare(batch, halves(batch), objective.start())
    expected = -prepared.advantage * prepared.weight * prepared.reduce.sum(0)[:, None] * prepared.mask
    assert expected.abs().sum() > 0
    torch.testing.assert_close(found[0], expected, rtol=1e-12, atol=1e-15)
    assert not found[1].any()


@pytest.mark.parametrize("method", METHODS)
def test_gradient_is_zero_off_the_mask_and_finite_whatever_stands_there(method: str) -> None:
    batch, objective = random_batch(), objective_of(method)
    logp, entropy = current_policy(batch)
    junk = torch.where(torch.arange(logp.shape[1]) % 2 == 0, torch.nan, -torch.inf)
    spoiled = (torch.where(batch.mask, logp, junk), torch.where(batch.mask, entropy, junk))
    found, loss, _ = gradient(objective, batch, one_each(batch), policy=spoiled)
    expected, expected_loss, _ = gradient(objective, batch, one_each(batch))
    assert not found[:, ~batch.mask].any()
    assert torch.equal(found, expected) and loss == expected_loss


@pytest.mark.parametrize("method", METHODS)
def test_order_of_responses_does_not_matter(method: str) -> None:
    batch, objective = random_batch(), objective_of(method)
    logp, entropy = current_policy(batch)
    expected, loss, _ = gradient(objective, batch, one_each(batch))
    order = torch.randperm(len(logp), generator=torch.Generator().manual_seed(2))
    found, other_loss, _ = gradient(
        objective, batch.take(order), one_each(batch.take(order)), policy=(logp[order], entropy[order])
    )
    torch.testing.assert_close(found, expected[:, order], **EXACT)
    assert other_loss == pytest.approx(loss, rel=1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_gradient_does_not_depend_on_micro_batches(method: str) -> None:
    batch, objective = random_batch(), objective_of(method)
    expected, loss, sums = gradient(objective, batch, one_each(batch))
    assert expected.abs().sum() > 0
    for count in range(2, 9):
        found, other_loss, other_sums = gradient(objective, batch, shared_out(halves(batch), count, seed=count))
        torch.testing.assert_close(found, expected, **EXACT)
        assert other_loss == pytest.approx(loss, rel=1e-12)
        assert other_sums == pytest.approx(sums, rel=1e-12)


@pytest.mark.slow
def test_gradient_does_not_depend_on_ranks(tmp_path: Path) -> None:
    methods = [(name,) for name in METHODS] + [("dapo", "top_entropy"), ("grpo", "steer"), ("grpo", "band_cov")]
    methods = [names for names in methods if all(name in METHODS for name in names)]
    batch = random_batch()
    expected = [gradient(objective_of(*names), batch, one_each(batch))[0] for names in methods]
    for ranks, micro_batches in ((1, 4), (2, 3), (3, 2)):
        for names, want, found in zip(
            methods, expected, gradient_by_ranks(methods, ranks, micro_batches, tmp_path), strict=True
        ):
            torch.testing.assert_close(found, want, **EXACT, msg=f"{names} on {ranks} ranks")


@pytest.mark.parametrize("method", METHODS)
def test_extreme_ratios_stay_finite(method: str) -> None:
    batch, objective = random_batch(), objective_of(method)
    old, entropy, *_ = batch.statistics
    far = torch.where(torch.arange(old.shape[1]) % 2 == 0, 80.0, -80.0)
    for policy in (old + far, old - far, torch.full_like(old, -1000.0)):
        found, loss, _ = gradient(objective, batch, one_each(batch), policy=(policy, entropy))
        assert found.isfinite().all() and abs(loss) < float("inf")


@pytest.mark.parametrize("method", METHODS)
def test_a_batch_without_any_trainable_token_is_no_step(method: str) -> None:
    batch, objective = random_batch(), objective_of(method)
    empty = dataclasses.replace(batch, mask=torch.zeros_like(batch.mask))
    found, loss, sums = gradient(objective, empty, one_each(empty))
    assert loss == 0 and not found.any() and sums["tokens"] == 0


@pytest.mark.parametrize("method", METHODS)
def test_one_masked_response_changes_nothing_for_the_others(method: str) -> None:
    """A response without trainable tokens, alone in its group, adds nothing to any sum or count."""
    objective, batch = objective_of(method), random_batch()
    last = len(batch.group) - 1
    mask = batch.mask.clone()
    mask[last] = False
    masked = dataclasses.replace(batch, mask=mask)
    rows = torch.arange(last)
    found, loss, _ = gradient(objective, masked, one_each(masked))
    without = masked.take(rows)
    logp, entropy = current_policy(batch)
    expected, other_loss, _ = gradient(
        objective, without, one_each_like(masked, rows), policy=(logp[rows], entropy[rows]), updates=like(masked, rows)
    )
    torch.testing.assert_close(found[:, rows], expected, **EXACT)
    assert loss == pytest.approx(other_loss, rel=1e-12)


def like(batch: Batch, rows: torch.Tensor) -> list[torch.Tensor]:
    """The updates of `batch` without the responses that are not in `rows`."""
    return [update[torch.isin(update, rows)] for update in halves(batch)]


def one_each_like(batch: Batch, rows: torch.Tensor) -> list[list[torch.Tensor]]:
    return [[update] for update in like(batch, rows)]
