"""Rewards called before the run, as an actor calls them: in another process, with the deadline."""

import time
from pathlib import Path

import numpy as np

from isentrope.actors.scoring import Scorer
from isentrope.errors import RewardError
from isentrope.rollout.config import DataConfig
from isentrope.rollout.data.prompts import Prompts
from isentrope.rollout.data.survey import Example
from isentrope.rollout.rewards.builtin import BUILTINS
from isentrope.rollout.rewards.correctness import reward_names
from isentrope.rollout.rewards.functions import Score

MAX_EXAMPLES = 8
"""Rows, besides the first, for which the functions are called."""

SECONDS = 5.0
"""Time for further rows, where all functions are built in: others may be slow, or cost something."""


async def probe(data: DataConfig, run_folder: Path, prompts: Prompts | None) -> list[Score]:
    """Import the functions, and call them for the first row and for one row of each kind of value that a column they
    name holds, such as null. Built-in ones are called for all rows, in random order, while
    there is time.

    Returns:
        The scores of the made-up responses; none without prompts.

    Raises:
        RewardError: a function cannot be imported, needs a column that is not there, or fails.
    """
    async with Scorer(data, str(run_folder)) as scorer:
        if prompts is None:
            return []
        scores = await scorer.probe(prompts.row(0))
        named = await scorer.columns()
        examples = [each for each in prompts.examples() if each.index and each.column in named]
        for example in examples[:MAX_EXAMPLES]:
            try:
                scores += await scorer.probe(prompts.row(example.index))
            except RewardError as error:
                raise RewardError(error.what, where=f"{error.where}; {_told(example)}", fix=error.fix) from error
        if not has_own_code(data):
            await _try_rows(scorer, prompts)
    return scores


def has_own_code(data: DataConfig) -> bool:
    """Return True if a reward function is the user's own."""
    return not BUILTINS.keys() >= set(reward_names(data))


async def _try_rows(scorer: Scorer, prompts: Prompts) -> None:
    """Call the functions for all rows while there is time; RewardError: the first error, and how many rows have one."""
    ends = time.monotonic() + SECONDS
    tried, errors = 0, list[RewardError]()
    for index in np.random.default_rng(0).permutation(prompts.count).tolist():
        if time.monotonic() > ends:
            break
        tried += 1
        try:
            await scorer.probe(prompts.row(index))
        except RewardError as error:
            errors.append(error)
    if errors:
        first = errors[0]
        rows = f"of {tried:,} rows that were tried, {len(errors):,} fail"
        raise RewardError(first.what, where=f"{first.where}; {rows}", fix=first.fix)


def _told(example: Example) -> str:
    rows = "the only row" if example.count == 1 else f"the first of {example.count:,} rows"
    return f"{rows} in which {example.column!r} is {example.kind}"
