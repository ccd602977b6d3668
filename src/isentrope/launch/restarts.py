"""Limit of the deaths of ranks: they are started again as long as new checkpoints come in between."""

import re
from pathlib import Path

CHECKPOINTS = "checkpoints"

_NAME = re.compile(r"step-(\d+)-\d+")


class Restarts:
    """Count of the deaths of ranks without a new checkpoint in between."""

    def __init__(self, output_dir: Path, limit: int) -> None:
        """Count from now on: at most `limit` deaths in a row; checkpoints are those in `output_dir`."""
        self._folder = output_dir / CHECKPOINTS
        self._limit = limit
        self._newest = newest(self._folder)
        self.count = 0
        """Deaths since the newest checkpoint."""

    def may_go_on(self) -> bool:
        """Count a death; return False if it was one more than allowed."""
        there = newest(self._folder)
        self.count = 1 if there > self._newest else self.count + 1
        self._newest = there
        return self.count <= self._limit


def newest(folder: Path) -> int:
    """Return the largest batch of a finished checkpoint in `folder`; -1: there is none."""
    names = (_NAME.fullmatch(path.name) for path in folder.glob("step-*"))
    return max((int(found[1]) for found in names if found), default=-1)
