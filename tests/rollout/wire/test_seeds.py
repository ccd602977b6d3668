"""Seeds depend on everything that names a sample, and on nothing else."""

from hypothesis import given
from hypothesis import strategies as st

from isentrope.rollout.wire.seeds import eval_seed, sampling_seed

number = st.integers(0, 1 << 40)


@given(number, number, number, number)
def test_every_argument_changes_the_seed(run_seed: int, seq: int, attempt: int, index: int) -> None:
    here = (run_seed, seq, attempt, index)
    seeds = {sampling_seed(*here)}
    for i in range(4):
        there = list(here)
        there[i] += 1
        seeds.add(sampling_seed(*there))
    assert len(seeds) == 5
    assert all(0 <= seed < 1 << 63 for seed in seeds)


@given(number, st.text(), st.text(), number, number)
def test_evaluation_seeds_keep_names_apart(run_seed: int, name: str, other: str, index: int, sample: int) -> None:
    assert (eval_seed(run_seed, name, index, sample) == eval_seed(run_seed, other, index, sample)) == (name == other)


def test_seeds_are_the_same_in_every_process_and_release() -> None:
    """A changed value would break resume and every recorded run."""
    assert sampling_seed(1, 2, 3, 4) == SAMPLING
    assert eval_seed(1, "held-out", 2, 3) == EVAL
    assert sampling_seed(1, 2, 3, 4) != eval_seed(1, "2", 3, 4)


SAMPLING = 2880511909267172795
EVAL = 1170048352964478169
