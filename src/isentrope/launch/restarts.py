"""Limit of the deaths of ranks: they are started again as long as new checkpoints come in between."""

from pathlib import Path

from isentrope.learner.training.checkpoint_store import CHECKPOINTS, newest_batch


class Restarts:
    """Count of the deaths of ranks without a new checkpoint in between."""

    def __init__(self, output_dir: Path, limit: int) -> None:
        """Count from now on: at most `limit` deaths in a row; checkpoints are those in `output_dir`."""
        self._folder = output_dir / CHECKPOINTS
        self._limit = limit
        self._newest = newest_batch(self._folder)
        self.count = 0
        """Deaths since the newest checkpoint."""

    def may_go_on(self) -> bool:
        """Count a death; return False if it was one more than allowed."""
        there = newest_batch(self._folder)
        self.count = 1 if there > self._newest else self.count + 1
        self._newest = there
        return self.count <= self._limit
