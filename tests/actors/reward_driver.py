"""A scorer and the event loop it lives in, for tests that are not coroutines."""

import asyncio
import dataclasses
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest
from waits import DEADLINE_S, until

from isentrope.actors.scoring import Scorer
from isentrope.errors import RewardError
from isentrope.rollout.config import DataConfig
from isentrope.rollout.rewards.functions import Outcome, Score

T = TypeVar("T")


def data(reward: str = "obedient:f", **more: Any) -> DataConfig:
    """Return the data of a run with this reward."""
    return DataConfig(**{"train": "train.jsonl", "reward": reward, "reward_timeout_s": DEADLINE_S, **more})


def rewards_of(outcomes: list[Outcome]) -> list[float]:
    """Return the rewards of those outcomes that are scores."""
    return [outcome.reward for outcome in outcomes if isinstance(outcome, Score)]


class Driver:
    """A scorer that is entered, in a loop of its own."""

    def __init__(self, runner: asyncio.Runner, scorer: Scorer) -> None:
        self._runner = runner
        self._scorer = scorer

    def run(self, waiting: Awaitable[T]) -> T:
        """Wait in the loop."""

        async def wait() -> T:
            return await waiting

        return self._runner.run(wait())

    def rewards(self, *completions: str) -> list[float]:
        """Score completions."""
        return self.run(self.score(*completions))

    async def score(self, *completions: str) -> list[float]:
        """Score completions, in the loop."""
        return rewards_of(await self._scorer.score(["p"] * len(completions), completions, {}))

    def answers(self, completion: str) -> list[str]:
        """Return the answer keys of one completion."""
        outcomes = self.run(self._scorer.score(["p"], [completion], {}))
        return [outcome.answer for outcome in outcomes if isinstance(outcome, Score)]

    def refusal(self, *completions: str) -> RewardError:
        """Return the error of a call that fails."""
        with pytest.raises(RewardError) as caught:
            self.rewards(*completions)
        return caught.value

    def late(self, completion: str) -> RewardError:
        """The refusal of a call that misses its deadline; only this call has one that can be missed."""
        deadline = self._scorer._deadline
        self._scorer._deadline = dataclasses.replace(deadline, seconds=1.0)
        try:
            return self.refusal(completion)
        finally:
            self._scorer._deadline = deadline

    def settle(self) -> None:
        """Wait until all that was printed is read."""
        self.run(until(lambda: not self._scorer._output._reader.poll(), "an empty pipe"))

    def pid(self) -> int:
        """Return the process that runs the functions, as it sees itself."""
        return int(self.rewards("pid")[0])


@contextmanager
def driving(config: DataConfig, folder: Path) -> Iterator[Driver]:
    """Enter a scorer while the block runs."""
    with asyncio.Runner() as runner:
        scorer = Scorer(config, str(folder))
        runner.run(scorer.__aenter__())
        try:
            yield Driver(runner, scorer)
        finally:
            runner.run(scorer.__aexit__())
