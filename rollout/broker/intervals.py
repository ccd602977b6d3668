"""Sets of whole numbers as intervals: few, where a million numbers would be too many arguments of a call."""

from collections.abc import Collection, Iterator

MAX_SEQ = 1 << 53
"""Number above all seqs: Lua counts in doubles."""


def bounds(numbers: Collection[int]) -> Iterator[int]:
    """Yield the first and the last of each run of numbers without a gap, ascending."""
    last: int | None = None
    for number in sorted(numbers):
        if last is None or number > last + 1:
            if last is not None:
                yield last
            yield number
        last = number
    if last is not None:
        yield last
