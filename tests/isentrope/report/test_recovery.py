"""Seconds lost and the share of useful time, worked out by hand and within bounds."""

from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from run_records import make_outcome, make_run_record, row_at

from isentrope.learner.outage_record import OutageRow, Recovery
from isentrope.report.contents import RunContents
from isentrope.report.recovery import recovery, seconds_lost, sentences

Role = Literal["learner", "actor", "broker"]


def outage(role: Role, began: float, ended: float, batches: int = 0) -> OutageRow:
    return OutageRow(role=role, name="", began=began, ended=ended, batches=batches)


def contents(outages: list[OutageRow], waits: dict[float, float], **outcome: Any) -> RunContents:
    run = make_run_record().model_copy(update={"started": 1000.0})
    rows = tuple(row_at(number, at, wait) for number, (at, wait) in enumerate(waits.items(), 1))
    return RunContents(run, make_outcome(**outcome), rows, (), (), tuple(outages), {})


STEADY = {1000.0 + 10 * number: 1.0 for number in range(2, 12)}


def test_what_each_role_costs() -> None:
    waits = STEADY | {1050.0: 7.0, 1070.0: 3.0}
    outages = [
        outage("learner", 900.0, 950.0),  # of an earlier command
        outage("actor", 1042.0, 1060.0),
        outage("broker", 1061.0, 1062.5),
        outage("learner", 1080.0, 1095.0, batches=2),
    ]
    found = recovery(contents(outages, waits, again=4), 1000.0, 10.0, 110.0)
    assert found.restarts == {"actor": 1, "broker": 1, "learner": 1}
    assert found.seconds_lost == pytest.approx({"learner": 15.0, "actor": 6.0, "broker": 0.5})
    assert found.ettr == pytest.approx(1 - 21.5 / 100)
    assert (found.batches_again, found.groups_again) == (2, 4)
    assert list(sentences(found)) == [
        "1 learner lost, 15 s",
        "1 broker lost, 0 s",
        "1 actor lost, 6 s",
        "2 batches trained again",
        "4 orders given out again",
        "78.5\u202f% of the time was useful",
    ]


def test_a_run_without_faults_has_lost_nothing_and_says_nothing() -> None:
    found = recovery(contents([], STEADY), 1000.0, 10.0, 110.0)
    assert found == Recovery(restarts={}, batches_again=0, groups_again=0, seconds_lost={}, ettr=1.0)
    assert list(sentences(found)) == []


def test_nothing_is_known_of_a_run_that_trained_nothing() -> None:
    found = recovery(RunContents(None, None, (), (), (), (), {}), 1000.0, None, None)
    assert (found.ettr, found.groups_again, found.seconds_lost) == (None, None, {})


def test_a_learner_that_was_lost_before_its_first_checkpoint_counts_from_its_first_batch() -> None:
    found = recovery(contents([outage("learner", 1050.0, 1100.0)], {1110.0: 0.0}), 1000.0, 100.0, 150.0)
    assert found.ettr == pytest.approx(0.5)


ROLES = st.sampled_from(["learner", "actor", "broker"])
SPANS = st.lists(st.tuples(ROLES, st.floats(1020.0, 1110.0), st.floats(0.0, 40.0)), max_size=6)


@given(spans=SPANS, waits=st.lists(st.floats(0.0, 10.0), min_size=10, max_size=10))
def test_no_role_loses_more_than_the_learner_waited_and_no_moment_counts_twice(
    spans: list[tuple[Role, float, float]], waits: list[float]
) -> None:
    rows = [row_at(number, at, wait) for number, (at, wait) in enumerate(zip(STEADY, waits, strict=True), 1)]
    lost = seconds_lost([outage(role, began, began + length) for role, began, length in spans], rows)
    assert all(seconds >= 0 for seconds in lost.values())
    assert sum(lost.get(role, 0.0) for role in ("actor", "broker")) <= sum(waits) + 1e-9
