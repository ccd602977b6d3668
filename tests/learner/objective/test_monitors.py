"""Monitors on batches small enough to count by hand."""

import dataclasses

import pytest
import torch
from batches import current_policy, gradient, halves, objective_of, random_batch, without_demonstrations

from isentrope.learner.objective import monitors


def test_update_metrics_are_means_over_the_tokens_of_the_update() -> None:
    batch = without_demonstrations(random_batch())
    objective = objective_of("dapo")
    logp, entropy = current_policy(batch)
    _, loss, sums = gradient(objective, batch, [[rows] for rows in halves(batch)])
    prepared = objective.prepare(batch, halves(batch))
    mask = prepared.mask
    assert batch.logp_ref is not None
    ratio, a = (logp - batch.statistics.logp).exp()[mask], prepared.advantage[mask]
    found = monitors.update_metrics(sums, {})
    assert found["loss"] == pytest.approx(loss)
    assert found["ratio_mean"] == pytest.approx(float(ratio.mean()))
    assert found["entropy"] == pytest.approx(float(entropy[mask].mean()))
    assert found["clip_high"] == pytest.approx(float(((a > 0) & (ratio > 1.28)).double().mean()))
    assert found["clip_low"] == pytest.approx(float(((a < 0) & (ratio < 0.8)).double().mean()))
    assert found["kl_ref"] == pytest.approx(float((logp - batch.logp_ref)[mask].mean()))
    assert found["effective_sample"] == pytest.approx(1.0)


def test_effective_sample_counts_what_a_selection_leaves() -> None:
    batch = without_demonstrations(random_batch())
    _, _, sums = gradient(objective_of("top_entropy"), batch, [[rows] for rows in halves(batch)])
    found = monitors.update_metrics(sums, {})
    assert found["effective_sample"] == pytest.approx(found["selected"])
    assert 0.15 < found["selected"] < 0.3
    prepared = objective_of("top_entropy").prepare(batch, halves(batch))
    assert prepared.metrics["kept_top_entropy"] == pytest.approx(found["selected"])


def test_a_mask_that_follows_the_policy_says_what_it_kept() -> None:
    batch = without_demonstrations(random_batch())
    objective = objective_of("deepseek_v32")
    logp, _ = current_policy(batch)
    _, _, sums = gradient(objective, batch, [[rows] for rows in halves(batch)])
    advantage = objective.prepare(batch, halves(batch)).advantage
    drift = ((batch.logp_rollout - logp) * batch.mask).sum(1) / batch.mask.sum(1).clamp_min(1)
    dropped = (advantage < 0) & (drift > 0.1)[:, None] & batch.mask
    kept = monitors.update_metrics(sums, {})["kept_sequence_divergence"]
    assert kept == pytest.approx(1 - float(dropped.sum() / batch.mask.sum()))
    assert kept < 1


def test_the_largest_ratio_is_of_tokens_that_a_mask_kept() -> None:
    batch = without_demonstrations(random_batch())
    far = batch.logp_rollout.clone()
    far[tuple(batch.mask.nonzero()[0])] -= 5
    batch = dataclasses.replace(batch, logp_rollout=far)
    objective, (logp, entropy) = objective_of("m2po"), current_policy(batch)
    rows = torch.arange(len(batch.length))
    prepared = objective.prepare(batch, [rows])
    part = objective.token_loss(prepared, 0, rows, logp.requires_grad_(), entropy, objective.start())
    ratio = (logp.detach() - batch.logp_rollout).exp()
    kept = prepared.mask & (prepared.weight != 0)
    assert part.maxima["ratio_max"] == pytest.approx(float(ratio[kept].max()))
    assert ratio[kept].max() < ratio[prepared.mask].max()


def test_batch_metrics_are_of_the_raw_batch() -> None:
    batch = without_demonstrations(random_batch())
    objective = objective_of("dapo")
    found = monitors.batch_metrics(batch, objective.prepare(batch, halves(batch)))
    correct, group = batch.correct, batch.group
    assert correct is not None
    rates = torch.stack([correct[group == g].double().mean() for g in range(int(group.max()) + 1)])
    assert found["pass_rate"] == pytest.approx(float(correct.double().mean()))
    assert found["groups_all_correct"] == pytest.approx(float((rates == 1).double().mean()))
    assert found["groups_all_wrong"] == pytest.approx(float((rates == 0).double().mean()))
    assert found["kept"] < 1 and found["tokens"] == int(batch.mask.sum())
    gap = (batch.statistics.logp - batch.logp_rollout)[batch.mask]
    assert found["logp_gap_mean"] == pytest.approx(float(gap.abs().mean()))
    w = gap.exp()
    assert found["importance_effective"] == pytest.approx(float(w.sum() ** 2 / (len(w) * w.square().sum())))
    assert len(found["drift_quantiles"]) == 3
    assert found["kl_rollout_k1"] == pytest.approx(float(-gap.mean()))
    assert found["kl_rollout"] == pytest.approx(float((w - 1 - gap).mean()))
    assert batch.logp_ref is not None
    x = (batch.statistics.logp - batch.logp_ref)[batch.mask]
    assert found["kl_ref"] == pytest.approx(float(x.mean()))
    assert found["kl_ref_k3"] == pytest.approx(float(((-x).exp() - 1 + x).mean()))


def test_entropy_metrics_see_the_full_distribution_of_tokens() -> None:
    entropy = torch.tensor([[0.005, 0.25, 0.25, 0.0], [4.0, 40.0, 0.0, 0.0]])
    mask = torch.tensor([[True, True, True, False], [True, True, False, False]])
    found = monitors.entropy_metrics(entropy, mask, torch.tensor([0, 1]), ("easy", "hard"))
    assert found["entropy"] == pytest.approx(44.505 / 5)
    assert sum(found["entropy_hist"]["counts"]) == 5
    counts = dict(zip(found["entropy_hist"]["edges"], found["entropy_hist"]["counts"], strict=False))
    assert (
        counts[0.0] == 1 and counts[0.2] == 2 and counts[3.0] == 1 and counts[5.0] == 1
    )  # above the last edge: the last bin
    assert found["entropy_by_source"] == {"easy": pytest.approx(0.505 / 3), "hard": 22.0}
    assert len(found["entropy_deciles"]) == 9 and found["entropy_deciles"][4] == pytest.approx(0.25)
    assert found["entropy_by_position"][0] == pytest.approx((0.005 + 4.0) / 2)
    assert found["entropy_by_position"][9] == pytest.approx(40.0) or len(found["entropy_by_position"]) == 10


def test_rewards_and_pass_rates_are_told_by_data_set() -> None:
    batch = without_demonstrations(random_batch())
    found = monitors.batch_metrics(batch, objective_of("dapo").prepare(batch, halves(batch)))
    assert batch.correct is not None and len(batch.source_names) > 1
    for place, name in enumerate(batch.source_names):
        own = batch.source == place
        assert found["reward_by_source"][name] == pytest.approx(float(batch.reward[own].double().mean()))
        assert found["pass_rate_by_source"][name] == pytest.approx(float(batch.correct[own].double().mean()))


def test_clipped_tokens_are_those_without_gradient() -> None:
    logp = torch.tensor([[0.0, 1.0]], requires_grad=True)
    assert monitors.without_gradient(logp.clamp(max=0.5), logp).tolist() == [[False, True]]
    assert not monitors.without_gradient(logp.detach(), logp).any()


def test_a_batch_of_nothing_has_metrics() -> None:
    batch = without_demonstrations(random_batch())
    empty = dataclasses.replace(batch, mask=torch.zeros_like(batch.mask))
    objective = objective_of("grpo")
    found = monitors.batch_metrics(empty, objective.prepare(empty, halves(empty)))
    assert found["tokens"] == 0 and all(v == v for v in found.values() if isinstance(v, float))
