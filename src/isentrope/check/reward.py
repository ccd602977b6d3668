"""Rewards called before the run, as an actor calls them: in another process, with the deadline."""

from pathlib import Path

from isentrope.actors.scoring import Scorer
from isentrope.errors import RewardError
from isentrope.rollout.config import DataConfig
from isentrope.rollout.data.prompts import Prompts
from isentrope.rollout.data.survey import Example
from isentrope.rollout.rewards.functions import Score

MAX_EXAMPLES = 8
"""Rows, besides the first, for which the functions are called."""


async def probe(data: DataConfig, run_folder: Path, prompts: Prompts | None) -> list[Score]:
    """Import the functions, and call them for the first row and for one row of each kind of value that a column they
    name holds, such as null.

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
    return scores


def _told(example: Example) -> str:
    rows = "the only row" if example.count == 1 else f"the first of {example.count:,} rows"
    return f"{rows} in which {example.column!r} is {example.kind}"
