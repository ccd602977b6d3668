"""Cases of other trainers whose result depends on the split of a batch, and what ours makes of them.

verl's issue 7818: KL-Cov selects in each micro-batch, so that of 8,192 tokens at a share of 2e-4 one token is selected
in one micro-batch and eight in eight. AReaL's issue 1730: M2PO's mask is made in each micro-batch, whose loss is
divided by the tokens that are left of it and weighed by those it had, sum_j (n_j / N) (A_j / k_j).
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from isentrope.learner.intake.plan import make_plan
from isentrope.learner.intake.ragged import RaggedBatch
from isentrope.learner.objective.stages.correction import second_moment
from isentrope.learner.objective.stages.tokens import top_covariance
from isentrope.learner.training import certificate_batch
from isentrope.learner.training.certificate import (
    PACKINGS,
    SIZES,
    SUPPLIED,
    Division,
    Packing,
    divided,
    lacking,
    objective_of,
)

SQUARES = [0.0, 0.01, 0.04, 0.09, 0.0, 0.0, 0.0, 0.25]
"""Squared log ratios of eight tokens, of which the first and the last four are a micro-batch each."""
LOSSES = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]
THRESHOLD = 0.04


def test_kl_cov_selects_one_of_8192_tokens_where_a_choice_in_eight_parts_selects_eight() -> None:
    draw = torch.Generator().manual_seed(0)
    logp, advantage = -torch.rand(8, 1024, generator=draw) * 4, torch.randn(8, 1, generator=draw).expand(8, 1024)
    mask = torch.ones(8, 1024, dtype=torch.bool)
    whole = top_covariance(logp, advantage, mask, share=2e-4)
    parts = [top_covariance(logp[i : i + 1], advantage[i : i + 1], mask[i : i + 1], share=2e-4) for i in range(8)]
    assert int(whole.sum()) == 1 and sum(int(part.sum()) for part in parts) == 8


def test_m2po_keeps_other_tokens_where_each_half_is_masked_alone() -> None:
    """Over all, the mean square without the last token is 0.02, so seven stay; of the second half alone three stay, of
    the first, whose mean is 0.035, all four: the same seven. A threshold of 0.03 drops one of the first half alone."""
    assert _kept(SQUARES, THRESHOLD) == [1, 1, 1, 1, 1, 1, 1, 0]
    assert _kept(SQUARES, 0.03) == [1, 1, 1, 1, 1, 1, 1, 0]
    assert _kept(SQUARES[:4], 0.03) + _kept(SQUARES[4:], 0.03) == [1, 1, 1, 0, 1, 1, 1, 0]


def test_m2po_divides_by_the_batch_where_a_mean_of_each_half_is_another_loss() -> None:
    """28 / 7 over all that are left. In halves 10 / 4 and 18 / 3, each with half of the tokens: 4.25."""
    kept = torch.tensor(_kept(SQUARES, THRESHOLD)) * torch.tensor(LOSSES)
    assert float(kept.sum() / 7) == 4.0
    assert float(4 / 8 * kept[:4].sum() / 4 + 4 / 8 * kept[4:].sum() / 3) == 4.25


def _kept(squares: list[float], threshold: float) -> list[int]:
    """Return 1 for the tokens that M2PO keeps of one row."""
    square = torch.tensor([squares], dtype=torch.float64)
    weight: Tensor = second_moment(square.sqrt(), torch.zeros_like(square), square >= 0, threshold=threshold)
    return [int(value) for value in weight[0]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("certificate")
    certificate_batch.write(folder)
    return folder


def test_the_small_batch_has_what_methods_tell_apart(folder: Path) -> None:
    ragged = certificate_batch.read(folder)
    assert ragged.correct is not None and ragged.fresh is not None
    right = np.bincount(ragged.group, ragged.correct)
    assert {0.0, float(certificate_batch.GROUP_SIZE)} < set(right), "groups of one outcome, and mixed ones"
    assert set(ragged.lag) > {0, 1, 2} and not ragged.mask.all() and ragged.truncated.any()
    assert ragged.greedy_reward is not None and set(ragged.greedy_reward - ragged.reward) == {-1.0, 0.0, 1.0}
    assert ragged.parts is not None and (ragged.parts.std(0) > 0).all()
    assert ragged.step_correct is not None and 0 < (ragged.step_correct & ~right_rows(ragged)).sum() < len(
        ragged.tokens
    )
    assert len(ragged.source_names) == 2 and len(set(ragged.answer)) == 3 and (ragged.logp_rollout < 0).all()


def test_a_demonstration_of_the_small_batch_is_whole_and_never_old(folder: Path) -> None:
    ragged = certificate_batch.read(folder, shown=True)
    assert ragged.demonstration is not None and ragged.fresh is not None
    assert set(np.repeat(ragged.index, ragged.length)[ragged.demonstration]) == {certificate_batch.GROUP_SIZE - 1}
    assert ragged.mask[ragged.demonstration].all() and not ragged.fresh[ragged.demonstration].any()
    assert not ragged.lag[ragged.demonstration].any()


def right_rows(ragged: RaggedBatch) -> NDArray[np.bool_]:
    """Return for each token whether its response is correct."""
    assert ragged.correct is not None
    return np.repeat(ragged.correct, ragged.length)


@pytest.mark.parametrize("packing", PACKINGS[1:])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_a_division_has_every_response_once_on_one_rank(folder: Path, ranks: int, size: int, packing: Packing) -> None:
    ragged = certificate_batch.read(folder)
    planned = make_plan(
        ragged.packed_length, ragged.group, ranks=ranks, micro_batch_tokens=10**6, updates_per_batch=2, epochs=1
    )
    plan = divided(planned, ranks, Division(size, packing))
    for sweep in (plan.statistics, *plan.updates):
        assert sorted(row for share in sweep.shares for part in share for row in part) == list(sweep.rows)
        assert len({len(share) for share in sweep.shares}) == 1, "ranks run the same collectives"
        assert all(len(part) <= (size or len(sweep.rows)) for share in sweep.shares for part in share)
    owner = {row: rank for rank, share in enumerate(plan.statistics.shares) for part in share for row in part}
    for sweep in plan.updates:
        assert all(owner[row] == rank for rank, share in enumerate(sweep.shares) for part in share for row in part)


def test_what_the_small_batch_lacks_is_named(folder: Path) -> None:
    for method in ("grpo", "ppo", "remax", "bcpg_nsa", "gdpo", "opd", "luffy"):
        assert lacking(objective_of(method, {}, folder)) == ()
    masked = {"ratio": {"sampling_mask": "engine"}}
    assert lacking(objective_of("grpo", masked, folder)), f"what {sorted(SUPPLIED)} does not hold"
    assert objective_of("vapo", {}, folder).critic.params["warmup_batches"] == 0, "the policy is trained at once"
