"""The composition, where the contract of all presets does not reach: scopes, denominators, token sets, statistics."""

import dataclasses

import pytest
import torch
from batches import current_policy, gradient, halves, objective_of, random_batch, shared_out, without_demonstrations
from torch import Tensor

from isentrope.kernels.plain import Moments
from isentrope.learner.objective.batch import Batch


def whole(batch: Batch) -> list[list[Tensor]]:
    return [[rows] for rows in halves(batch)]


BATCH = without_demonstrations(random_batch())


def test_filtered_responses_leave_the_batch_and_its_denominators() -> None:
    objective = objective_of("grpo", filter=["mixed_groups"], reduce="token_mean")
    prepared = objective.prepare(BATCH, halves(BATCH))
    kept = prepared.mask.any(1)
    assert 0 < kept.sum() < len(kept)
    for update, rows in enumerate(halves(BATCH)):
        tokens = prepared.mask[rows].sum()
        assert prepared.reduce[update, rows].max() == pytest.approx(1 / max(int(tokens), 1))


def test_a_filter_changes_the_baseline_of_what_is_left() -> None:
    batch = dataclasses.replace(BATCH, truncated=torch.arange(len(BATCH.group)) % 4 == 1)
    plain = objective_of("grpo", advantage={"scale": "none"}).prepare(batch, halves(batch))
    filtered = objective_of("grpo", advantage={"scale": "none"}, filter=["not_truncated"]).prepare(batch, halves(batch))
    assert not torch.equal(plain.advantage[0], filtered.advantage[0])
    rows = (batch.group == 0) & ~batch.truncated
    expected = batch.reward[0] - batch.reward[rows].mean()
    torch.testing.assert_close(filtered.advantage[0][batch.mask[0]], expected.expand(int(batch.mask[0].sum())))


def test_denominators_are_of_the_update_statistics_of_the_batch() -> None:
    objective = objective_of("top_entropy")
    prepared = objective.prepare(BATCH, halves(BATCH))
    entropy = BATCH.statistics.entropy[BATCH.mask]
    threshold = torch.quantile(entropy, 0.8)
    torch.testing.assert_close(prepared.weight[BATCH.mask], (entropy >= threshold).double())
    for update, rows in enumerate(halves(BATCH)):
        assert prepared.reduce[update, rows][0] == pytest.approx(1 / int(BATCH.mask[rows].sum()))


def test_a_selection_does_not_change_the_denominator() -> None:
    full, _, _ = gradient(objective_of("dapo"), BATCH, whole(BATCH))
    part, _, _ = gradient(objective_of("dapo", "top_entropy"), BATCH, whole(BATCH))
    chosen = part[0] != 0
    assert chosen.any() and torch.equal(part[0][chosen], full[0][chosen])


def test_a_divergence_is_added_with_its_coefficient_and_the_policys_denominator() -> None:
    plain, loss, _ = gradient(objective_of("dapo"), BATCH, whole(BATCH))
    held, held_loss, sums = gradient(
        objective_of("dapo", kl=[{"kind": "k2", "anchor": "ref", "coef": 0.3}]), BATCH, whole(BATCH)
    )
    prepared = objective_of("dapo").prepare(BATCH, halves(BATCH))
    logp, _ = current_policy(BATCH)
    assert BATCH.logp_ref is not None
    x = (logp - BATCH.logp_ref) * prepared.mask
    factor = prepared.reduce.sum(0)[:, None]
    torch.testing.assert_close(held[0] - plain[0], 0.3 * factor * x, rtol=1e-9, atol=1e-12)
    assert held_loss - loss == pytest.approx(float((0.3 * factor * x.square() / 2).sum()))
    assert sums["loss_kl_0"] == pytest.approx(held_loss - loss)


def test_a_divergence_on_selected_tokens_touches_no_other() -> None:
    objective = objective_of(
        "kl_cov", kl=[{"kind": "abs", "anchor": "old", "coef": 1.0, "tokens": {"kind": "top_cov", "share": 0.1}}]
    )
    plain, _, _ = gradient(objective_of("kl_cov", kl=[]), BATCH, whole(BATCH))
    found, _, _ = gradient(objective, BATCH, whole(BATCH))
    touched = (found[0] - plain[0]).abs() > 1e-15
    prepared = objective.prepare(BATCH, halves(BATCH))
    assert touched.sum() == max(1, int(0.1 * int(prepared.mask.sum())))


def test_the_reference_does_not_feel_a_divergence_to_the_old_policy_on_policy() -> None:
    """With log p equal to log p_old the method without clip does nothing more than policy gradient."""
    policy = BATCH.statistics[:2]
    with_term, _, _ = gradient(objective_of("kl_cov"), BATCH, whole(BATCH), policy=policy)
    without, _, _ = gradient(objective_of("kl_cov", kl=[]), BATCH, whole(BATCH), policy=policy)
    assert torch.equal(with_term, without)


def test_positive_likelihood_is_a_mean_over_the_correct_tokens_of_the_update() -> None:
    plain, _, _ = gradient(objective_of("dapo"), BATCH, whole(BATCH))
    found, _, _ = gradient(
        objective_of("dapo", aux={"positive_nll": {"coef": 0.5}}), BATCH, shared_out(halves(BATCH), 3)
    )
    prepared = objective_of("dapo").prepare(BATCH, halves(BATCH))
    assert BATCH.correct is not None
    chosen = prepared.mask & BATCH.correct[:, None]
    expected = torch.zeros_like(plain[0])
    for rows in halves(BATCH):
        count = chosen[rows].sum()
        expected[rows] = -0.5 * chosen[rows].double() / count.clamp_min(1)
    torch.testing.assert_close(found[0] - plain[0], expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("tokens", ["all", "selected"])
def test_the_bonus_is_paid_on_all_or_on_selected_tokens(tokens: str) -> None:
    objective = objective_of("top_entropy", entropy={"coef": 0.1, "tokens": tokens})
    found, _, _ = gradient(objective, BATCH, whole(BATCH))
    prepared = objective.prepare(BATCH, halves(BATCH))
    counted = prepared.mask & (prepared.weight > 0) if tokens == "selected" else prepared.mask
    expected = -0.1 * prepared.reduce.sum(0)[:, None] * counted
    torch.testing.assert_close(found[1], expected, rtol=1e-12, atol=1e-15)


def test_filters_judge_responses_alone_and_a_demonstration_stays_with_its_group() -> None:
    batch = random_batch()
    last = (batch.group[1:] != batch.group[:-1]).nonzero()[:, 0]  # of every group but the one with one response
    shown = torch.zeros_like(batch.valid)
    shown[last] = batch.valid[last]
    right = (batch.group == 1) | (batch.group == 3) & (batch.index == 0)
    right[last] = batch.group[last] != 1
    batch = dataclasses.replace(
        batch, demonstration=shown, mask=batch.valid, correct=right, reward=right.to(batch.reward.dtype)
    )
    kept = objective_of("luffy", filter=["mixed_groups"]).prepare(batch, halves(batch)).mask.any(1)
    assert kept.tolist() == (batch.group == 3).tolist(), (
        "groups 0 and 2 are wrong, and 1 is right, but for what they show"
    )


def test_demonstrations_take_part_in_no_statistic_and_in_no_policy_term() -> None:
    batch = random_batch()
    demonstration = batch.demonstration
    assert demonstration is not None and demonstration.any()
    objective = objective_of("kl_cov", "top_entropy")
    expected, _, _ = gradient(objective, batch, whole(batch))
    assert not expected[0][demonstration].any()
    wild = batch.statistics._replace(entropy=torch.where(demonstration, 1e6, batch.statistics.entropy))
    found, _, _ = gradient(objective, dataclasses.replace(batch, statistics=wild), whole(batch))
    assert torch.equal(found, expected)


def test_statistics_of_the_engine_need_no_pass_of_the_learner() -> None:
    nothing = torch.full_like(BATCH.logp_rollout, torch.nan)
    batch = dataclasses.replace(BATCH, statistics=Moments(nothing, nothing, nothing, nothing))
    objective = objective_of("kl_cov", stats="rollout")
    prepared = objective.prepare(batch, halves(batch))
    assert prepared.batch.statistics.logp is batch.logp_rollout
    shifted = dataclasses.replace(BATCH, statistics=BATCH.statistics._replace(logp=BATCH.logp_rollout))
    expected = objective_of("kl_cov").prepare(shifted, halves(shifted))
    assert torch.equal(prepared.kl_weight[0], expected.kl_weight[0])  # type: ignore[arg-type]


def test_microbatch_statistics_depend_on_the_packing_and_batch_statistics_do_not() -> None:
    for stats, same in (("old", True), ("microbatch", False)):
        objective = objective_of("dapo", "top_entropy", stats=stats)
        one, _, _ = gradient(objective, BATCH, whole(BATCH))
        many, _, _ = gradient(objective, BATCH, shared_out(halves(BATCH), 4))
        assert torch.allclose(one, many, rtol=1e-12, atol=1e-15) is same


def test_microbatch_selection_does_not_draw_clipped_tokens() -> None:
    objective = objective_of(
        "clip_cov", stats="microbatch", tokens=[{"kind": "band_cov", "share": 1.0, "low": -99, "high": 99}]
    )
    found, _, sums = gradient(objective, BATCH, whole(BATCH))
    # every unclipped token is drawn and dropped; what a clip has cut has no gradient anyway
    assert not found[0].any() and sums["selected"] == sums["clip_high"] + sums["clip_low"]


def test_a_draw_is_the_same_whatever_the_ranks_and_changes_with_the_batch() -> None:
    objective = objective_of("clip_cov", tokens=[{"kind": "band_cov", "share": 0.2, "low": -9, "high": 9}])
    first = objective.prepare(BATCH, halves(BATCH)).weight
    assert torch.equal(first, objective.prepare(BATCH, halves(BATCH)).weight)
    later = dataclasses.replace(BATCH, number=4)
    assert not torch.equal(first, objective.prepare(later, halves(later)).weight)


def test_a_correction_reaches_to_the_anchor_of_the_ratio() -> None:
    """Interpolated anchor and its correction together make the ratio to the sampling policy."""
    objective = objective_of(ratio={"anchor": "interpolated"}, clip="none", correction={"kind": "reject", "high": 1e9})
    direct = objective_of(ratio={"anchor": "rollout"}, clip="none")
    lagged = dataclasses.replace(BATCH, lag=torch.full_like(BATCH.lag, 3))
    found, loss, _ = gradient(objective, lagged, whole(lagged))
    expected, other, _ = gradient(direct, lagged, whole(lagged))
    assert loss == pytest.approx(other)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def test_epochs_repeat_a_batch_with_the_same_selection() -> None:
    objective = objective_of("kl_cov")
    updates = [*halves(BATCH), *halves(BATCH)]
    prepared = objective.prepare(BATCH, updates)
    assert torch.equal(prepared.reduce[:2], prepared.reduce[2:])


def test_kl_in_the_reward_is_spread_over_the_tokens_and_counted_in_the_return() -> None:
    objective = objective_of(
        reward=[{"kind": "kl_penalty", "coef": 0.5}], advantage={"baseline": "returns", "scale": "none"}
    )
    prepared = objective.prepare(BATCH, halves(BATCH))
    assert BATCH.logp_ref is not None
    penalty = -0.5 * (BATCH.statistics.logp - BATCH.logp_ref) * BATCH.mask
    row = int(torch.where(BATCH.mask.sum(1) > 2)[0][0])
    first = int(torch.where(BATCH.mask[row])[0][0])
    assert prepared.advantage[row, first] == pytest.approx(float(BATCH.reward[row] + penalty[row].sum()))
