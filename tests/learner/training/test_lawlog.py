"""The entropy law along a run."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from isentrope.learner.training.lawlog import FEWEST, LawLog
from isentrope.learner.training.metrics import Journal


def line(batch: int) -> dict[str, Any]:
    entropy = 1.0 - 0.03 * batch
    return {"batch": batch, "entropy": entropy, "reward": 0.7 - 0.2 * math.exp(entropy)}


def test_it_is_silent_until_there_are_enough_batches() -> None:
    log = LawLog([], None)
    said = [log.add(line(batch)) for batch in range(1, FEWEST + 2)]
    assert said[: FEWEST - 1] == [{}] * (FEWEST - 1)
    fitted = said[-1]["entropy_law"]
    assert (fitted["a"], fitted["b"], fitted["ceiling"], fitted["r2"]) == pytest.approx((0.2, 0.7, 0.5, 1.0))
    assert fitted["points"] == FEWEST + 1 and json.loads(json.dumps(said[-1])) == said[-1]


def test_it_goes_on_where_the_journal_ends(tmp_path: Path) -> None:
    straight, journal = LawLog([], None), Journal(tmp_path / "metrics.jsonl")
    for batch in range(1, 12):
        straight.add(line(batch))
        journal.append(line(batch))
    assert LawLog(journal.rows(), None).add(line(12)) == straight.add(line(12))
    assert LawLog(Journal(tmp_path / "none.jsonl").rows(), None).add(line(1)) == {}


def test_groups_that_were_replaced_count() -> None:
    law, replacing = LawLog([], None), LawLog([], None)
    for batch in range(1, 12):
        row = line(batch)
        drawn = row | {"reward": 0.5, "process": {"pass_rate_drawn": row["reward"]}}
        assert replacing.add(drawn) == law.add(row)


def test_a_renewed_reference_begins_another_line() -> None:
    rows = [line(batch) for batch in range(1, 15)]
    resumed, straight = LawLog(rows, 4), LawLog(rows[:4], None)
    straight.restart()
    for row in rows[4:]:
        straight.add(row)
    assert resumed.add(line(15)) == straight.add(line(15))
    assert resumed.add(line(16))["entropy_law"]["points"] == 12
