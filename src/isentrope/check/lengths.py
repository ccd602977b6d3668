"""Lengths of the prompts in tokens, as exactly as time allows.

Only prompts whose bytes do not show that they fit must be tokenized, and a sample for the figures. Time is limited:
how many were not looked at is said.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from isentrope.rollout.data.prompts import Prompts, PromptTooLongError, encode
from isentrope.rollout.data.tokenizer import Tokenizer

SECONDS, SECONDS_PER_ROW = 12.0, 1e-5
"""Time for tokenizing, in all and more for each row."""

SAMPLE = 2000
"""Rows that are tokenized even if their bytes show that they fit."""

LISTED = 5
"""Rows named in one message."""

_TOLD_EVERY = 256


@dataclass(frozen=True, slots=True)
class Lengths:
    """Lengths that are known.

    rows: [n] indices of tokenized rows, first those that are spread evenly over all. tokens: [n] their lengths.
    count: rows of the data. unsure: rows that may be too long, and were not tokenized.
    """

    rows: NDArray[np.int64]
    tokens: NDArray[np.int64]
    count: int
    unsure: int

    def too_long(self, room: int) -> NDArray[np.int64]:
        """Return the rows that have more tokens than `room`, in the order of the data."""
        return np.sort(self.rows[self.tokens > room])

    def sentence(self, room: int) -> str:
        """Return what is known, for a reader."""
        whole = len(self.rows) == self.count
        middle = int(np.median(self.tokens if whole else self.tokens[:SAMPLE]))
        fit = self.count - self.unsure - len(self.too_long(room))
        return (
            f"{self.count:,} prompts of {self.tokens.min():,} to {self.tokens.max():,} tokens, median {middle:,}"
            f"{'' if whole else f' ({len(self.rows):,} were counted)'}; {'at least ' if self.unsure else ''}{fit:,} "
            f"fit into the {room:,} tokens that the longest response leaves"
        )


def measure(prompts: Prompts, tokenizer: Tokenizer, room: int, tell: Callable[[str], None]) -> Lengths:
    """Tokenize the prompts that may have more than `room` tokens, and a sample of the others, while there is time.

    `tell` is called with the progress. DataError: the chat template refuses a row.
    """
    most = prompts.most_tokens()
    order, suspects = _order(most, room)
    ends = time.monotonic() + SECONDS + SECONDS_PER_ROW * len(most)
    tokens: list[int] = []
    for done, index in enumerate(order):
        if done % _TOLD_EVERY == 0 and done:
            tell(f"lengths: {done:,} of {len(order):,} prompts")
            if time.monotonic() > ends:
                break
        tokens.append(len(encode(prompts.row(int(index)), tokenizer)))
    seen = order[: len(tokens)]
    return Lengths(seen, np.array(tokens, dtype=np.int64), len(most), len(np.setdiff1d(suspects, seen)))


def require_room(prompts: Prompts, lengths: Lengths, room: int, *, skip: bool) -> Iterator[str]:
    """Yield notes about prompts that are too long.

    Raises:
        PromptTooLongError: some are, and the run does not `skip` them; or no prompt fits.
    """
    too_long = lengths.too_long(room)
    none = len(too_long) + lengths.unsure == lengths.count
    if len(too_long) and (none or not skip):
        places = "; ".join(prompts.row(int(index)).where for index in too_long[:LISTED])
        longest = int(lengths.tokens.max())
        of = f" of the {len(lengths.rows):,} that were counted" if lengths.unsure else ""
        few = f"none of the prompts fits{of}" if none else f"{len(too_long):,} prompts are too long"
        raise PromptTooLongError(
            f"{few}: there is room for {room:,} tokens, and the longest has {longest:,}",
            where=places + ("; ..." if len(too_long) > LISTED else ""),
            fix="lower sampling.max_new_tokens, or raise model.max_model_len"
            + ("" if none else ', or set data.too_long = "skip"'),
        )
    if len(too_long):
        yield f"{len(too_long):,} of {lengths.count:,} prompts are too long, and will be skipped"
    if lengths.unsure:
        yield f"{lengths.unsure:,} long prompts were not tokenized for lack of time; some of them may be too long"


def _order(most: NDArray[np.int64], room: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the rows to tokenize, the most telling first, and those of them that may be too long."""
    by_size = np.argsort(most, kind="stable")[::-1]
    suspects = by_size[most[by_size] > room]
    spread = np.linspace(0, len(most) - 1, min(SAMPLE, len(most))).round().astype(np.int64)
    few = SAMPLE // 20
    wanted = np.concatenate([spread, by_size[:few], by_size[-few:], suspects])
    _, first = np.unique(wanted, return_index=True)
    return wanted[np.sort(first)], suspects
