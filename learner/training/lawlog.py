"""The entropy law as a run goes on: one fit through every batch since the reference was last renewed, for each line of
metrics. Knows lines of metrics; the fit is `entropy_law.py`'s."""

from collections.abc import Iterable
from dataclasses import asdict

from isentrope.learner.training import entropy_law
from isentrope.learner.training.metrics import Row

FEWEST = 10
"""Batches before anything is said: a single one has a standard error of its own."""


class LawLog:
    """Pairs of entropy and reward, in the order of batches."""

    def __init__(self, rows: Iterable[Row], renewed_at: int | None) -> None:
        """Go on behind `rows`; what lies before the batch `renewed_at` followed another reference."""
        self._pairs = [_pair(row) for row in rows if row["batch"] > (renewed_at or 0)]

    def restart(self) -> None:
        """The reference is renewed: entropy and reward follow another line from here."""
        self._pairs = []

    def add(self, row: Row) -> Row:
        """What the line of a new batch says of the law: its fit, or nothing yet."""
        self._pairs.append(_pair(row))
        if len(self._pairs) < FEWEST:
            return {}
        fitted = entropy_law.fit([entropy for entropy, _ in self._pairs], [reward for _, reward in self._pairs])
        return {} if fitted is None else {"entropy_law": asdict(fitted)}


def _pair(row: Row) -> tuple[float, float]:
    """Entropy and mean reward. Where groups are replaced for their outcome, those left have a mean of their own; then
    the pass rate of all that were drawn says how good the policy is."""
    return row["entropy"], row.get("process", {}).get("pass_rate_drawn", row["reward"])
