"""Lengths and rates of an earlier run, and the share of its groups that were replaced."""

import statistics
from dataclasses import dataclass
from pathlib import Path

from isentrope.errors import RunFolderError
from isentrope.learner import json_files
from isentrope.learner.records import BatchRow


@dataclass(frozen=True, slots=True)
class Measured:
    """Means of a run over all batches but the first, which is that of the start."""

    response_tokens: int
    retired_share: float
    """Groups that were replaced for each that was trained."""
    actor_tokens: float
    """Tokens per second of one actor; less than it could do where it waited for the learner."""
    learner_tokens: float
    """Tokens per second of the learner while it did not wait."""
    learner_idle: float
    """Share of the time in which the learner waited for groups."""
    publish_s: float
    """Seconds of a publication, median."""


def measure(folder: Path) -> Measured:
    """Return what the run in `folder` measured; RunFolderError if it has trained fewer than two batches."""
    rows = list(json_files.read_lines(folder, BatchRow))
    if len(rows) < 2:
        raise RunFolderError(
            f"{folder} has {len(rows)} trained batches, at least 2 are needed",
            fix="give the folder of a run that has trained, or state rates: --tokens-per-second",
        )
    first, last = rows[0], rows[-1]
    rows = rows[1:]
    tokens = sum(row.length_mean * row.responses for row in rows)
    waited = sum(row.time.wait_s for row in rows)
    busy = sum(row.time.stats_s + row.time.update_s + row.time.publish_s + row.time.checkpoint_s for row in rows)
    trained, retired = last.trained - first.trained, last.retired - first.retired
    share = retired / max(trained, 1)
    actors = max(statistics.fmean(row.process.actors for row in rows), 1.0)
    return Measured(
        response_tokens=round(statistics.fmean(row.length_mean for row in rows)),
        retired_share=share,
        actor_tokens=tokens * (1 + share) / max(waited + busy, 1e-9) / actors,
        learner_tokens=tokens / max(busy, 1e-9),
        learner_idle=waited / max(waited + busy, 1e-9),
        publish_s=statistics.median(row.time.publish_s for row in rows),
    )
