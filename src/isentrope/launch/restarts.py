"""Limit of the deaths of ranks: they are started again as long as new checkpoints or dead letters come in between."""

from pathlib import Path

from isentrope.learner.training.checkpoint_store import CHECKPOINTS, newest_batch
from isentrope.learner.training.dead_letters import DeadLetters


class Restarts:
    """Count of the deaths of ranks without a new checkpoint or dead letter in between.

    A dead letter says that a plan which killed them is out of the way. But where every plan kills them, there is one
    after the other, so only `limit` of them count between two checkpoints.
    """

    def __init__(self, output_dir: Path, limit: int) -> None:
        """Count from now on: at most `limit` deaths in a row; checkpoints and dead letters are those in
        `output_dir`."""
        self._checkpoints = output_dir / CHECKPOINTS
        self._letters = DeadLetters(output_dir)
        self._limit = limit
        self._batch = newest_batch(self._checkpoints)
        self._seen = self._letters.names
        self._retirements = 0
        self.count = 0
        """Deaths since the newest checkpoint or dead letter."""

    def may_go_on(self) -> bool:
        """Count a death; return False if it was one more than allowed."""
        batch, letters = newest_batch(self._checkpoints), self._letters.names
        if batch > self._batch:
            self.count = self._retirements = 0
        elif letters - self._seen and self._retirements < self._limit:
            self.count = 0
            self._retirements += 1
        self._batch, self._seen = batch, letters
        self.count += 1
        return self.count <= self._limit
