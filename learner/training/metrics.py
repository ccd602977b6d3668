"""What a batch looked like, as one line of JSON: `metrics.jsonl`. Knows numbers and files, not who reads them.

Lines of equal runs are equal but for `time` and `process`, which hold what depends on speed and on who was there, and
for the entropy law of an objective that replaces groups.
"""

import json
import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from isentrope.learner.intake.buffer import ALL_CORRECT, NONE_CORRECT
from isentrope.learner.intake.packing import Arrays
from isentrope.learner.objective.monitors import batch_metrics, update_metrics
from isentrope.learner.training.trainer import BatchFacts, UpdateFacts

Row = dict[str, Any]

HEADLINES = (
    *("reward", "reward_std", "pass_rate", "entropy", "entropy_deciles", "entropy_hist"),
    *("loss", "clip_high", "clip_low", "ratio_mean", "ratio_max"),
    *("kept", "tokens", "length_mean", "truncated", "logp_gap_mean", "logp_gap_max"),
)
"""What stands in the line itself; everything else that the objective measures stands in its map `objective`."""


class Journal:
    """A file of JSON lines, each about one batch."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def rewind(self, batch: int) -> None:
        """Forget lines of later batches, which will be trained again; -1: everything."""
        if not self._path.exists():
            return
        lines = self._path.read_text(encoding="utf-8").splitlines()
        kept = [line for line in lines if _batch(line) <= batch]
        unfinished = self._path.with_name(self._path.name + ".tmp")
        unfinished.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
        unfinished.replace(self._path)

    def rows(self) -> list[Row]:
        """Every line, oldest first."""
        if not self._path.exists():
            return []
        return [json.loads(line) for line in self._path.read_text(encoding="utf-8").splitlines()]

    def append(self, row: Row) -> None:
        """Add a line; it is whole on the disk when this returns."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
            file.flush()
            os.fsync(file.fileno())


def batch_row(arrays: Arrays, facts: BatchFacts) -> Row:
    """Everything about one trained batch that depends on nothing but what was trained."""
    measured = batch_metrics(facts.batch, facts.prepared) | _updates(facts.updates)
    if facts.state:
        measured["control"] = {kind: numbers["value"] for kind, numbers in facts.state.items() if "value" in numbers}
    headlines = {name: measured.pop(name) for name in HEADLINES if name in measured}
    lag = arrays.lag[arrays.mask]
    masked = int(arrays.length.sum()) - lag.size
    norms = [update.grad_norm for update in facts.updates if update.applied]
    return {
        "batch": int(arrays.number) + 1,
        **headlines,
        "grad_norm": float(np.mean(norms)) if norms else 0.0,
        "updates": len(facts.updates),
        "skipped": len(facts.updates) - facts.applied,
        "groups": len(arrays.prompt_length),
        "responses": len(arrays.length),
        "lag_mean": float(lag.mean()) if lag.size else 0.0,
        "lag_max": int(lag.max()) if lag.size else 0,
        "lag_hist": {str(value): count for value, count in sorted(Counter(lag.tolist()).items())},
        "tokens_masked": masked,
        "objective": measured,
    }


class Drawn:
    """Keeps track of groups that were replaced for their outcome, which a pass rate must not leave out."""

    def __init__(self, group_size: int, retired: Mapping[str, int]) -> None:
        """`retired`: by reason, so far."""
        self._group_size = group_size
        self._retired = retired

    def pass_rate(self, row: Row, retired: Mapping[str, int]) -> float:
        """Pass rate of the batch of `row` and of all that was replaced since the one before; `retired` as above."""
        new = Counter(retired)
        new.subtract(self._retired)
        self._retired = retired
        right, wrong = (new[outcome] * self._group_size for outcome in (ALL_CORRECT, NONE_CORRECT))
        correct = row["pass_rate"] * row["responses"]
        return float((correct + right) / (row["responses"] + right + wrong))


def scalars(row: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """The numbers of a row by name; names of nested ones are joined by `/`."""
    flat: dict[str, float] = {}
    for name, value in row.items():
        if isinstance(value, Mapping):
            flat |= scalars(value, f"{prefix}{name}/")
        elif isinstance(value, int | float):
            flat[prefix + name] = float(value)
    return flat


def _updates(updates: tuple[UpdateFacts, ...]) -> dict[str, float]:
    """Over all updates that were applied; losses are means over updates."""
    applied = [update for update in updates if update.applied]
    if not applied:
        return {"loss": 0.0, "clip_high": 0.0, "clip_low": 0.0, "ratio_mean": 1.0, "ratio_max": 1.0}
    sums = {name: sum(update.sums[name] for update in applied) for name in applied[0].sums}
    sums |= {name: value / len(applied) for name, value in sums.items() if name.startswith("loss_")}
    maxima = {name: max(update.maxima[name] for update in applied) for name in applied[0].maxima}
    return update_metrics(sums, maxima)


def _batch(line: str) -> int:
    """Batch of a line; one that was cut off counts as later than all."""
    try:
        return int(json.loads(line)["batch"])
    except (ValueError, KeyError):
        return 1 << 62
