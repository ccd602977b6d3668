"""The entropy law: its fit, and the fit along a run."""

import math
from pathlib import Path

import numpy as np
import pytest
from run_records import make_row

from isentrope.learner.measures import BatchProcess
from isentrope.learner.records import BatchRow
from isentrope.learner.training import entropy_law
from isentrope.learner.training.entropy_law import FEWEST, RunningFit, pair_of
from isentrope.learner.training.journal import Journal


def test_recovers_the_line_it_was_made_of() -> None:
    entropy = [1.0, 0.7, 0.4, 0.1]
    fitted = entropy_law.fit(entropy, [0.6 - 0.2 * math.exp(h) for h in entropy])
    assert fitted is not None
    assert (fitted.a, fitted.b, fitted.ceiling, fitted.r2) == pytest.approx((0.2, 0.6, 0.4, 1.0))
    assert fitted.ceiling_low == pytest.approx(fitted.ceiling_high)


def test_interval_holds_the_ceiling_as_often_as_it_says() -> None:
    draw = np.random.default_rng(0)
    entropy = np.linspace(0.9, 0.2, 12)
    hits = 0
    for _ in range(2000):
        fitted = entropy_law.fit(
            entropy.tolist(), (0.7 - 0.25 * np.exp(entropy) + 0.05 * draw.standard_normal(12)).tolist()
        )
        assert fitted is not None
        hits += fitted.ceiling_low <= 0.45 <= fitted.ceiling_high
    assert hits / 2000 == pytest.approx(0.95, abs=0.02)


@pytest.mark.parametrize("degrees", [1, 2, 3, 5, 10, 100])
def test_students_t(degrees: int) -> None:
    exact = {1: 12.7062, 2: 4.3027, 3: 3.1824, 5: 2.5706, 10: 2.2281, 100: 1.9840}
    assert entropy_law.student_t(degrees) == pytest.approx(exact[degrees], rel=1e-2)


def test_no_line_through_too_little() -> None:
    assert entropy_law.fit([0.5, 0.4], [0.1, 0.2]) is None
    assert entropy_law.fit([0.5, 0.5, 0.5], [0.1, 0.2, 0.3]) is None
    assert entropy_law.fit([], []) is None


def row(batch: int) -> BatchRow:
    entropy = 1.0 - 0.03 * batch
    return make_row(batch, entropy=entropy, reward=0.7 - 0.2 * math.exp(entropy))


def test_it_is_silent_until_there_are_enough_batches() -> None:
    law = RunningFit([], None)
    said = [law.add(*pair_of(row(batch))) for batch in range(1, FEWEST + 2)]
    assert said[: FEWEST - 1] == [None] * (FEWEST - 1)
    fitted = said[-1]
    assert fitted is not None and fitted.points == FEWEST + 1
    assert (fitted.a, fitted.b, fitted.ceiling, fitted.r2) == pytest.approx((0.2, 0.7, 0.5, 1.0))


def test_it_goes_on_where_the_journal_ends(tmp_path: Path) -> None:
    straight, journal = RunningFit([], None), Journal(tmp_path, BatchRow)
    assert journal.rows() == []
    for batch in range(1, 12):
        straight.add(*pair_of(row(batch)))
        journal.append(row(batch))
    assert RunningFit(journal.rows(), None).add(*pair_of(row(12))) == straight.add(*pair_of(row(12)))


def test_groups_that_were_replaced_count() -> None:
    older = BatchProcess(ready_groups=0, idle_s=0.0, actors=1, pass_rate_drawn=0.3)
    process = older.model_copy(update={"reward_drawn": 0.4})
    assert pair_of(make_row(entropy=0.5, reward=0.6)) == (0.5, 0.6)
    assert pair_of(make_row(entropy=0.5, reward=0.6, process=process)) == (0.5, 0.4)
    assert pair_of(make_row(entropy=0.5, reward=0.6, process=older)) == (0.5, 0.3)


def test_a_refreshed_reference_begins_another_line() -> None:
    rows = [row(batch) for batch in range(1, 15)]
    resumed, straight = RunningFit(rows, 4), RunningFit(rows[:4], None)
    straight.restart()
    for each in rows[4:]:
        straight.add(*pair_of(each))
    assert resumed.add(*pair_of(row(15))) == straight.add(*pair_of(row(15)))
    last = resumed.add(*pair_of(row(16)))
    assert last is not None and last.points == 12
