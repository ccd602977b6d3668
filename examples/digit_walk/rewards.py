"""Reward of a digit walk: 1 if every step is allowed and true, and the last result is the target, else 0."""

import operator

SIGNS = {"+": operator.add, "-": operator.sub, "*": operator.mul}


def reaches(
    completions: list[str], start: list[int], target: list[int], operations: list[list[str]], **columns: object
) -> list[float]:
    """Return the reward of each completion; the columns of its row of the data arrive by name."""
    rows = zip(completions, start, target, operations, strict=True)
    return [float(end_of_walk(text, digit, allowed) == goal) for text, digit, goal, allowed in rows]


def end_of_walk(text: str, digit: int, allowed: list[str]) -> int | None:
    """Return the digit that steps such as `+3 0 -1 9` lead to from `digit`; None if one is not allowed or false."""
    words = text.split()
    if len(words) % 2:
        return None
    for operation, result in zip(words[::2], words[1::2], strict=True):
        if operation not in allowed:
            return None
        digit = SIGNS[operation[0]](digit, int(operation[1:])) % 10
        if result != str(digit):
            return None
    return digit
