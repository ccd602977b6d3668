"""The published facts of the digit walk: how many problems, which are held out, and what counts as an answer."""

import itertools
import zlib
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from isentrope.rollout.data.tasks import open_task
from isentrope.rollout.data.tasks.digit_walk import (
    MAX_PAIRS,
    VOCABULARY,
    DigitWalk,
    Problem,
    demonstration,
    step,
    verify,
)

SEQS = st.integers(0, 2**40)


def identity(problem: Problem) -> tuple[int, int, tuple[str, ...]]:
    """A problem up to the order of its operations."""
    return problem.start, problem.target, tuple(sorted(problem.operations))


def distance(problem: Problem) -> int:
    reached, steps = {problem.start}, 0
    while problem.target not in reached:
        reached |= {step(digit, operation) for digit in reached for operation in problem.operations}
        steps += 1
    return steps


def problem_of(index: int, task: DigitWalk) -> Problem:
    row = task.eval(index)
    start, target, operations = (row.columns[name] for name in ("start", "target", "operations"))
    assert isinstance(start, int) and isinstance(target, int) and isinstance(operations, list)
    return Problem(start, target, tuple(operations))


@pytest.fixture(scope="module")
def held_out() -> list[Problem]:
    task = DigitWalk(0)
    return [problem_of(index, task) for index in range(task.eval_count)]


def test_the_vocabulary_has_46_words_in_the_published_order() -> None:
    assert len(VOCABULARY) == len(set(VOCABULARY)) == 46
    assert VOCABULARY[:4] == ("<pad>", "<bos>", "<eos>", "0")
    assert VOCABULARY[13] == "+0" and VOCABULARY[42] == "*9" and VOCABULARY[43:] == (">", ":", "=")


def test_all_3682_held_out_problems_occur_once(held_out: list[Problem]) -> None:
    assert len(held_out) == 3682
    assert len({identity(problem) for problem in held_out}) == 3682


def test_a_tenth_of_36784_problems_is_held_out_by_the_checksum(held_out: list[Problem]) -> None:
    problems: list[Problem] = []
    for plus, minus, times in itertools.product(range(1, 10), range(1, 10), range(2, 10)):
        operations = (f"+{plus}", f"-{minus}", f"*{times}")
        near = np.eye(10, dtype=bool)  # [start, target], within one step
        for digit, operation in itertools.product(range(10), operations):
            near[digit, step(digit, operation)] = True
        reachable = np.linalg.matrix_power(near, 9)
        problems += (Problem(int(s), int(t), operations) for s, t in np.argwhere(reachable & ~near))
    assert len(problems) == 36784
    expected = {
        identity(p) for p in problems if zlib.crc32(f"{p.start}>{p.target}:{sorted(p.operations)}".encode()) % 10 == 0
    }
    assert {identity(problem) for problem in held_out} == expected


@given(seed=st.integers(0, 2**70), seq=SEQS)
def test_training_never_draws_a_held_out_problem(seed: int, seq: int) -> None:
    assert not DigitWalk(seed).train_problem(seq).held_out


@given(seed=st.integers(0, 2**32), seq=SEQS)
def test_a_training_problem_depends_on_seed_and_seq_alone(seed: int, seq: int) -> None:
    fresh = DigitWalk(seed)
    fresh.train(seq + 1)
    assert fresh.train(seq) == DigitWalk(seed).train(seq)


def test_training_problems_are_pinned() -> None:
    """The stream is part of the format: a run resumed by a later version must see the same prompts."""
    task = DigitWalk(1)
    assert [task.train(seq).prompt for seq in (0, 1, 10**6)] == [
        "1 > 6 : -7 *2 +2 =",
        "8 > 2 : *5 +3 -9 =",
        "0 > 6 : *3 +5 -9 =",
    ]
    assert task.eval(0).prompt == "4 > 1 : -7 *2 +2 ="


def test_held_out_problems_are_the_same_for_every_seed() -> None:
    assert DigitWalk(1).eval(17) == DigitWalk(2).eval(17)
    assert DigitWalk(1).train(17) != DigitWalk(2).train(17)


def test_distances_have_the_published_shares() -> None:
    task = DigitWalk(0)
    counts = Counter(distance(task.train_problem(seq)) for seq in range(4000))
    assert max(counts) <= 6
    assert counts[2] / 4000 == pytest.approx(0.59, abs=0.03)
    assert counts[3] / 4000 == pytest.approx(0.33, abs=0.03)


def test_the_order_of_the_operations_is_shuffled() -> None:
    task = DigitWalk(0)
    orders = Counter("".join(op[0] for op in task.train_problem(seq).operations) for seq in range(1200))
    assert len(orders) == 6 and min(orders.values()) > 140


@given(seq=SEQS, seed=st.integers(0, 2**32))
def test_demonstrations_are_right_answers(seq: int, seed: int) -> None:
    problem = DigitWalk(0).train_problem(seq)
    text = demonstration(problem, np.random.default_rng(seed))
    assert verify(text, problem.start, problem.target, problem.operations)
    assert len(text.split()) <= 2 * MAX_PAIRS
    assert set(text.split()) <= set(VOCABULARY)


def test_demonstrations_have_two_to_six_steps() -> None:
    rng = np.random.default_rng(0)
    task = DigitWalk(0)
    lengths = Counter(len(demonstration(task.train_problem(seq), rng).split()) // 2 for seq in range(600))
    assert sorted(lengths) == [2, 3, 4, 5, 6]
    assert min(lengths.values()) > 60


@given(seq=SEQS, data=st.data())
def test_a_demonstration_with_one_word_changed_is_wrong(seq: int, data: st.DataObject) -> None:
    problem = DigitWalk(0).train_problem(seq)
    words = demonstration(problem, np.random.default_rng(seq)).split()
    place = data.draw(st.integers(0, len(words) - 1))
    right = words[place]
    digit_before = problem.start if place < 2 else int(words[place - 1 - place % 2])
    same_effect = (
        {operation for operation in problem.operations if step(digit_before, operation) == step(digit_before, right)}
        if place % 2 == 0
        else {right}
    )
    wrong = data.draw(st.sampled_from([word for word in VOCABULARY if word not in same_effect]))
    words[place] = wrong
    assert not verify(" ".join(words), problem.start, problem.target, problem.operations)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "nothing"),
        ("+3", "an operation without its result"),
        ("+3 0 *4 0 -1", "odd"),
        ("+3 0 *4 0", "ends on another digit"),
        ("+3 0 -1 9 +3 2 <eos>", "special tokens are no words of an answer"),
        ("+5 2", "an operation that was not offered"),
        ("+3 2", "a false result"),
        ("+3 00 -1 9 +3 2", "a digit is one character"),
        ("-1 6 -1 5 -1 4 -1 3 -1 2 -1 1 -1 0 +3 3 -1 2", "more than six pairs"),
        ("\u0660 2", "digits of other scripts"),
    ],
)
def test_what_is_not_a_walk_to_the_target_is_wrong(text: str, why: str) -> None:
    assert not verify(text, 7, 2, ("+3", "*4", "-1")), why


def test_the_rewards_name_the_walk_so_that_different_right_answers_differ() -> None:
    walks = ["+3 0 -1 9 +3 2", "  -1 6 -1 5 -1 4\t-1 3 -1 2", "+3 0"]
    returned = DigitWalk(0).verify(walks, start=[7] * 3, target=[2] * 3, operations=[["+3", "*4", "-1"]] * 3)
    assert returned == [
        {"reward": 1.0, "answer": "+3 0 -1 9 +3 2"},
        {"reward": 1.0, "answer": "-1 6 -1 5 -1 4 -1 3 -1 2"},
        {"reward": 0.0, "answer": "+3 0"},
    ]


def test_open_task_answers_a_misspelt_name_with_the_right_one() -> None:
    assert open_task("digit_walk", 3).train(5) == DigitWalk(3).train(5)
    with pytest.raises(ValueError, match="task:digit_walk"):
        open_task("digit_wlak")
