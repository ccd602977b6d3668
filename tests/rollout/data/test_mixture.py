"""Every file has its share of the prompts after any number of them, to less than one prompt."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isentrope.errors import ConfigError
from isentrope.rollout.data.mixture import Mixture, require_weights


@given(weights=st.lists(st.integers(1, 60), min_size=1, max_size=7))
def test_shares_are_exact_to_less_than_one_prompt_after_every_prompt(weights: list[int]) -> None:
    mixture, whole = Mixture(weights), sum(weights)
    counts = [0] * len(weights)
    for seq in range(2 * whole + 3):
        file, place = mixture.draw(seq)
        assert place == counts[file], "a file's prompts are drawn one after another"
        counts[file] += 1
        assert all(
            abs(Fraction((seq + 1) * weight, whole) - count) < 1 for weight, count in zip(weights, counts, strict=True)
        )


@given(weights=st.lists(st.integers(1, 1000), min_size=1, max_size=5), seq=st.integers(0, 10**12))
def test_a_draw_depends_on_weights_and_seq_alone(weights: list[int], seq: int) -> None:
    assert Mixture(weights).draw(seq) == Mixture(weights).draw(seq)
    assert Mixture([2 * each for each in weights]).draw(seq) == Mixture(weights).draw(seq)


def test_the_order_of_draws_is_pinned() -> None:
    """The sequence is part of the format: a run resumed by a later version must see the same prompts."""
    mixture = Mixture([3, 1])
    assert [mixture.draw(seq) for seq in range(6)] == [(0, 0), (0, 1), (0, 2), (1, 0), (0, 3), (0, 4)]
    assert "".join(str(Mixture([5, 3, 2]).draw(seq)[0]) for seq in range(10)) == "0102010102"


@pytest.mark.parametrize(
    ("names", "weights", "what"),
    [(["a", "b"], ["a"], "'b' has no weight"), (["a"], ["b"], "'a' has no weight"), ([], ["a"], "'a' is not one of")],
)
def test_weights_that_fit_no_files_are_refused(names: list[str], weights: list[str], what: str) -> None:
    with pytest.raises(ConfigError, match=what):
        require_weights(names, weights)
