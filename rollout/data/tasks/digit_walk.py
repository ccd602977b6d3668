"""Digit walk: reach a target digit by a chain of modular operations. A task a 300,000-parameter model learns on a CPU.

    prompt   7 > 2 : +3 *4 -1 =     start 7, target 2, three operations; results are kept modulo 10
    answer   -1 6 -1 5 *4 0 ...     1 to 6 pairs of an operation and its result; the last result must be the target

Half of the answer's tokens are free choices (operations), the other half follow from them (digits), and most problems
have several right answers, so entropy need not collapse. The words of its tokenizer are `VOCABULARY`.
"""

import itertools
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from isentrope.rollout.data.rows import Row

OPERATIONS = tuple(f"{sign}{digit}" for sign in "+-*" for digit in range(10))
VOCABULARY = ("<pad>", "<bos>", "<eos>", *"0123456789", *OPERATIONS, ">", ":", "=")
"""The words of prompts and answers, separated by one blank; the position is the token's id."""

MAX_PAIRS = 6
MIN_DISTANCE = 2

_HELD_OUT_EVERY = 10
_EVAL_KEY = (1 << 64) - 1
"""Second word of the key of the held-out draw; training uses `seq`, which is smaller."""


@dataclass(frozen=True, slots=True)
class Problem:
    """`target` can be reached from `start` in two to six steps of `operations`."""

    start: int
    target: int
    operations: tuple[str, ...]

    @property
    def prompt(self) -> str:
        return f"{self.start} > {self.target} : {' '.join(self.operations)} ="

    @property
    def held_out(self) -> bool:
        """True for held-out problems; depends on the problem alone, not on the order of its operations."""
        return zlib.crc32(f"{self.start}>{self.target}:{sorted(self.operations)}".encode()) % _HELD_OUT_EVERY == 0


class DigitWalk:
    """The task. Training problems are drawn with replacement; the held-out ones are complete, in a fixed order."""

    digest = "digit_walk-1"

    def __init__(self, seed: int) -> None:
        self._seed = seed

    @property
    def eval_count(self) -> int:
        return len(_problems(held_out=True))

    def train(self, seq: int) -> Row:
        problem = self.train_problem(seq)
        walk = demonstration(problem, np.random.default_rng([self._seed, seq]))
        return _row(problem, f"task:digit_walk, problem {seq}", walk)

    def eval(self, index: int) -> Row:
        return _row(_eval_problems()[index], f"task:digit_walk, held-out problem {index}")

    def train_problem(self, seq: int) -> Problem:
        """Return the problem of `train(seq)`."""
        pick, order = _bits(self._seed, seq, 2)
        problems = _problems(held_out=False)
        return _reordered(problems[pick % len(problems)], order)

    def verify(
        self,
        completions: list[str],
        start: list[int],
        target: list[int],
        operations: list[list[str]],
        **_: object,
    ) -> list[dict[str, object]]:
        """Return the reward of each completion, 1 for a right answer, else 0, with the walk as the answer's key."""
        return [
            {"reward": float(verify(text, s, t, ops)), "answer": " ".join(text.split())}
            for text, s, t, ops in zip(completions, start, target, operations, strict=True)
        ]


def step(digit: int, operation: str) -> int:
    """Return the result of `operation` on `digit`."""
    operand = int(operation[1])
    match operation[0]:
        case "+":
            return (digit + operand) % 10
        case "-":
            return (digit - operand) % 10
        case _:
            return (digit * operand) % 10


def verify(text: str, start: int, target: int, operations: Sequence[str]) -> bool:
    """Return whether `text` walks from `start` to `target` by allowed operations with true results."""
    words = text.split()
    if len(words) % 2 or not 1 <= len(words) // 2 <= MAX_PAIRS:
        return False
    digit = start
    for operation, result in zip(words[::2], words[1::2], strict=True):
        if operation not in operations:
            return False
        digit = step(digit, operation)
        if result != str(digit):
            return False
    return digit == target


def demonstration(problem: Problem, rng: np.random.Generator) -> str:
    """Return a right answer: a uniformly random walk of 2 to 6 steps, drawn until one ends on the target."""
    results = [[step(digit, operation) for digit in range(10)] for operation in problem.operations]
    while True:
        lengths = rng.integers(2, MAX_PAIRS + 1, size=16).tolist()
        for length, picks in zip(lengths, rng.integers(3, size=(16, MAX_PAIRS)).tolist(), strict=True):
            digits = [problem.start]
            for pick in picks[:length]:
                digits.append(results[pick][digits[-1]])
            if digits[-1] == problem.target:
                pairs = zip(picks, digits[1:], strict=False)
                return " ".join(f"{problem.operations[pick]} {digit}" for pick, digit in pairs)


@cache
def _problems(*, held_out: bool) -> tuple[Problem, ...]:
    """Return all problems up to the order of their operations, in a fixed order."""
    problems: list[Problem] = []
    for plus, minus, times in itertools.product(range(1, 10), range(1, 10), range(2, 10)):
        operations = (f"+{plus}", f"-{minus}", f"*{times}")
        next_digits = [{step(digit, operation) for operation in operations} for digit in range(10)]
        for start in range(10):
            problems += (
                Problem(start, target, operations)
                for target, distance in _distances(start, next_digits).items()
                if distance >= MIN_DISTANCE
            )
    return tuple(problem for problem in problems if problem.held_out == held_out)


def _distances(start: int, next_digits: list[set[int]]) -> dict[int, int]:
    """Return the fewest steps from `start` to every digit that can be reached."""
    distances = {start: 0}
    queue = [start]
    for digit in queue:  # grows while it is walked: breadth first
        for reached in sorted(next_digits[digit] - distances.keys()):
            distances[reached] = distances[digit] + 1
            queue.append(reached)
    return distances


@cache
def _eval_problems() -> tuple[Problem, ...]:
    """Return all held-out problems, shuffled, so that the first ones are a fair sample."""
    problems = _problems(held_out=True)
    bits = _bits(0, _EVAL_KEY, 2 * len(problems))
    ranks, orders = bits[: len(problems)], bits[len(problems) :]
    return tuple(_reordered(problems[i], orders[i]) for i in sorted(range(len(problems)), key=ranks.__getitem__))


def _reordered(problem: Problem, order: int) -> Problem:
    orders = tuple(itertools.permutations(problem.operations))
    return Problem(problem.start, problem.target, orders[order % len(orders)])


def _bits(seed: int, seq: int, count: int) -> list[int]:
    """Return random 64-bit numbers as a pure function of (seed, seq). Raw bits: their stream is the same in any
    NumPy."""
    key = np.array([seed % (1 << 64), seq], dtype=np.uint64)
    return [int(word) for word in np.random.Philox(key=key).random_raw(count)]


def _row(problem: Problem, where: str, walk: str = "") -> Row:
    columns = {"start": problem.start, "target": problem.target, "operations": list(problem.operations)}
    return Row(problem.prompt, columns, source="digit_walk", where=where, demonstration=walk)
