"""Choosing the k largest against a stable sort in float64, and the scores that are chosen by."""

from pathlib import Path

import forks
import numpy as np
import pytest
import select_rank
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from isentrope.kernels import select

KINDS = ["normal", "ties", "equal", "zeros", "nan", "infinite"]


def values_of(kind: str, count: int) -> Tensor:
    values = torch.randn(count)
    match kind:
        case "ties":
            values = torch.randint(-2, 3, (count,)).float()
        case "equal":
            values = torch.full((count,), -0.5)
        case "zeros":
            values = torch.where(torch.rand(count) > 0.5, 0.0, -0.0)
        case "nan":
            values[torch.rand(count) > 0.5] = torch.nan
        case "infinite":
            values[torch.rand(count) > 0.7] = torch.inf
            values[torch.rand(count) > 0.7] = -torch.inf
    return values


def by_sorting(values: Tensor, k: int, candidates: Tensor) -> Tensor:
    """Larger first, then the smaller index; NaN last."""
    index = candidates.nonzero()[:, 0].numpy()
    x = values.double().numpy()[index]
    order = np.lexsort((index, -np.where(np.isnan(x), 0.0, x), np.isnan(x)))
    chosen = torch.zeros_like(candidates)
    chosen[torch.from_numpy(index[order[:k]])] = True
    return chosen


@settings(max_examples=20)
@given(st.integers(0, 3000), st.sampled_from(KINDS), st.floats(0, 1), st.integers(0, 2**31))
def test_the_set_is_that_of_a_stable_sort(count: int, kind: str, share: float, seed: int) -> None:
    torch.manual_seed(seed)
    values, candidates = values_of(kind, count), torch.rand(count) > 0.2
    k = int(share * count)
    assert torch.equal(select.top_k_mask(values, k, candidates=candidates), by_sorting(values, k, candidates))


@pytest.mark.parametrize("kind", ["ties", "nan"])
def test_the_set_of_a_large_batch_is_that_of_a_stable_sort(kind: str) -> None:
    torch.manual_seed(1)
    values, everything = values_of(kind, 65536), torch.ones(65536, dtype=torch.bool)
    found = select.top_k_mask(values, torch.tensor([1310], dtype=torch.int32))
    assert torch.equal(found, by_sorting(values, 1310, everything))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ties", "zeros", "normal"])
def test_many_programs_choose_as_one_does(kind: str) -> None:
    torch.manual_seed(2)
    values, candidates = values_of(kind, 300_000), torch.rand(300_000) > 0.2
    found = select.top_k_mask(values, 600, candidates=candidates)
    assert torch.equal(found, by_sorting(values, 600, candidates))


@pytest.mark.parametrize("kind", KINDS)
def test_many_programs_choose_as_one_does_for_few_values(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(3)
    values, candidates = values_of(kind, 9000), torch.rand(9000) > 0.2
    one = select.top_k_mask(values, 700, candidates=candidates)
    monkeypatch.setattr(select, "ONE_PROGRAM", 0)
    assert torch.equal(select.top_k_mask(values, 700, candidates=candidates), one)


def test_more_than_there_are_selects_all_candidates_even_nan() -> None:
    values, candidates = torch.tensor([1.0, torch.nan, -torch.inf, 2.0]), torch.tensor([True, True, True, False])
    assert torch.equal(select.top_k_mask(values, 10, candidates=candidates), candidates)


def test_strided_candidates_are_read_where_they_are() -> None:
    candidates = torch.tensor([[True, False], [False, True], [True, True]])[:, 0]
    assert select.top_k_mask(torch.tensor([1.0, 3.0, 2.0]), 1, candidates=candidates).tolist() == [False, False, True]


def test_random_choice_takes_the_smallest_bits_and_is_uniform() -> None:
    torch.manual_seed(4)
    hits = torch.zeros(20)
    for _ in range(24):
        random = torch.randint(-(2**31), 2**31 - 1, (20,), dtype=torch.int32)
        chosen = select.smallest_random_mask(random, 5)
        unsigned = random.numpy().view(np.uint32)
        assert sorted(unsigned[chosen.numpy()]) == sorted(unsigned)[:5]
        hits += chosen
    assert hits.sum() == 120 and hits.min() >= 1 and hits.max() <= 14  # 6 +- 2.1 expected


def test_covariance_has_means_over_candidates_alone() -> None:
    torch.manual_seed(5)
    logp, advantage, candidates = torch.randn(50), torch.randn(50), torch.rand(50) > 0.3
    x, a = logp[candidates].double(), advantage[candidates].double()
    found = select.covariance(logp, advantage, candidates)
    torch.testing.assert_close(found[candidates], ((x - x.mean()) * (a - a.mean())).float())
    assert not found[~candidates].any()


@settings(max_examples=40)
@given(st.integers(1, 60), st.floats(0.01, 1), st.booleans(), st.integers(0, 2**31))
def test_top_entropy_is_above_the_quantile_of_torch(count: int, share: float, ties: bool, seed: int) -> None:
    torch.manual_seed(seed)
    entropy = torch.randint(4, (count,)).float() if ties else torch.rand(count)
    candidates = torch.rand(count) > 0.3
    candidates[0] = True
    threshold = torch.quantile(entropy[candidates].double(), 1 - share)
    expected = candidates & (entropy.double() >= threshold)
    assert torch.equal(select.top_entropy_mask(entropy, share, candidates), expected)


@pytest.mark.slow
@pytest.mark.parametrize("world", [1, 2, 4])
def test_ranks_of_unequal_sizes_choose_one_identical_set(world: int, tmp_path: Path) -> None:
    torch.manual_seed(6)
    values = torch.randint(-3, 3, (1000,)).float()
    bounds = [0, *sorted(torch.randperm(999)[: world - 1].add(1).tolist()), 1000]
    torch.save({"values": values, "bounds": bounds}, tmp_path / "in.pt")
    ranks = [forks.context().Process(target=select_rank.main, args=(tmp_path, rank, world)) for rank in range(world)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join()
    assert [rank.exitcode for rank in ranks] == [0] * world
    parts = [torch.load(tmp_path / f"{rank}.pt") for rank in range(world)]
    expected = by_sorting(values, 37, torch.ones(1000, dtype=torch.bool))
    assert torch.equal(torch.cat([part["mine"] for part in parts]), expected)
    assert all(torch.equal(part["whole"], expected) for part in parts)
