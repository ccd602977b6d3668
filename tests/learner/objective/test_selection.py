"""Exact selection and group statistics, as properties."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from isentrope.learner.objective import selection

scores = st.lists(st.sampled_from([-2.0, -0.0, 0.0, 0.5, 3.0, float("nan")]), min_size=1, max_size=30)


@given(scores, st.data())
def test_top_takes_exactly_the_count_and_none_better_is_left(values: list[float], data: st.DataObject) -> None:
    mask = data.draw(st.lists(st.booleans(), min_size=len(values), max_size=len(values)))
    count = data.draw(st.integers(0, len(values)))
    score, kept = torch.tensor([values]), torch.tensor([mask])
    chosen = selection.top(score, kept, count)
    assert chosen.sum() == min(count, kept.sum()) and not (chosen & ~kept).any()
    rank = torch.nan_to_num(score, nan=-torch.inf)
    inside, outside = rank[chosen], rank[kept & ~chosen]
    assert not len(inside) or not len(outside) or inside.min() >= outside.max()


def test_ties_are_cut_by_place() -> None:
    chosen = selection.top(torch.tensor([[0.0, -0.0], [0.0, 1.0]]), torch.ones(2, 2, dtype=torch.bool), 3)
    assert chosen.tolist() == [[True, True], [False, True]]


@given(st.lists(st.floats(-10, 10), min_size=1, max_size=40), st.floats(0, 1))
def test_quantile_is_torchs(values: list[float], share: float) -> None:
    score = torch.tensor([values], dtype=torch.float64)
    found = selection.quantile(score, torch.ones_like(score, dtype=torch.bool), share)
    torch.testing.assert_close(found, torch.quantile(score[0], share), rtol=1e-12, atol=1e-12)


@given(st.lists(st.tuples(st.integers(0, 3), st.floats(-5, 5)), min_size=1, max_size=20))
def test_group_statistics_are_those_of_each_group(rows: list[tuple[int, float]]) -> None:
    group = torch.tensor([g for g, _ in rows])
    value = torch.tensor([v for _, v in rows], dtype=torch.float64)
    for place, own in enumerate(group):
        same = value[group == own]
        torch.testing.assert_close(selection.group_sum(value, group)[place], same.sum(), rtol=1e-12, atol=1e-12)
        assert selection.group_size(group)[place] == len(same)
        assert selection.group_varies(value, group)[place] == (same.max() > same.min())


def test_mean_of_nothing_is_zero() -> None:
    assert selection.mean(torch.ones(2, 2), torch.zeros(2, 2, dtype=torch.bool)) == 0


def test_covariance_is_about_the_masked_means() -> None:
    mask = torch.tensor([[True, True, False]])
    found = selection.covariance(torch.tensor([[-1.0, -3.0, 50.0]]), torch.tensor([[2.0, 0.0, 50.0]]), mask)
    assert found.tolist() == [[1.0, 1.0, 0.0]]


@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from([-1.0, 0.0, 0.25, 2.0])), min_size=1, max_size=20))
def test_ranks_and_seconds_are_those_of_each_group(rows: list[tuple[int, float]]) -> None:
    group = torch.tensor([g for g, _ in rows])
    value = torch.tensor([v for _, v in rows], dtype=torch.float64)
    rank, second = selection.group_rank(value, group), selection.max_of_others(value, group)
    total = selection.group_logsumexp(value, group)
    for place, (own, mine) in enumerate(rows):
        others = [v for at, (g, v) in enumerate(rows) if g == own and at != place]
        earlier = [v for at, (g, v) in enumerate(rows) if g == own and at < place]
        assert rank[place] == sum(v < mine for v in others) + sum(v == mine for v in earlier)
        assert second[place] == max(others, default=-torch.inf)
        torch.testing.assert_close(total[place], value[group == own].logsumexp(0), rtol=1e-12, atol=1e-12)
