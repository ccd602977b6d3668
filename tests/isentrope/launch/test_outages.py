"""Outages are told once, when they are over, with the time that passed until as much was there again."""

from run_records import row_at

from isentrope.launch.outages import Outages
from isentrope.learner.outage_record import OutageRow
from isentrope.learner.placement_record import PlacedRecord, PlacementRecord


class Seen:
    """Outages under a clock that a test sets."""

    def __init__(self) -> None:
        self.rows: list[OutageRow] = []
        self.now = 100.0
        self.outages = Outages(self, lambda: self.now)

    def append(self, row: OutageRow) -> None:
        self.rows.append(row)

    def batch(self, number: int, at: float) -> None:
        self.outages.batch(row_at(number, at))

    def told(self) -> list[tuple[str, str, float, float, int]]:
        return [(row.role, row.name, row.began, row.ended, row.batches) for row in self.rows]


def placed(**states: str) -> PlacementRecord:
    actors = {name: PlacedRecord.model_validate({"state": state, "host": ""}) for name, state in states.items()}
    return PlacementRecord(wanted=len(states), waits="", actors=actors)


def test_a_learner_is_missing_until_another_has_trained_as_many_batches() -> None:
    seen = Seen()
    seen.outages.learner(3)
    for number in (1, 2, 3):
        seen.batch(number, 100.0 + number)
    seen.outages.learner(4)
    for number in (2, 3, 4):
        seen.batch(number, 110.0 + number)
    seen.outages.learner(4)
    assert seen.told() == [("learner", "3", 103.0, 113.0, 2)]


def test_a_learner_that_repeats_nothing_is_back_when_it_waits_for_the_next_batch() -> None:
    seen = Seen()
    seen.outages.learner(1)
    seen.batch(1, 101.0)
    seen.outages.learner(2)
    seen.batch(2, 120.0)
    assert seen.told() == [("learner", "1", 101.0, 116.5, 0)]


def test_learners_that_are_lost_one_after_the_other_share_no_moment() -> None:
    seen = Seen()
    seen.outages.learner(1)
    seen.batch(1, 101.0)
    seen.batch(2, 102.0)
    seen.outages.learner(2)
    seen.now = 109.0
    seen.outages.learner(3)
    seen.batch(1, 115.0)
    seen.batch(2, 116.0)
    seen.outages.end()
    assert seen.told() == [("learner", "1", 102.0, 109.0, 0), ("learner", "2", 109.0, 116.0, 2)]


def test_an_actor_is_missing_until_as_many_serve() -> None:
    seen = Seen()
    seen.outages.actors(placed(a1="serving", a2="serving"))
    seen.now = 105.0
    seen.outages.actors(placed(a2="serving"))
    seen.now = 106.0
    seen.outages.actors(placed(a2="serving", a3="booting"))
    seen.now = 109.0
    seen.outages.actors(placed(a2="serving", a3="serving"))
    assert seen.told() == [("actor", "a1", 105.0, 109.0, 0)]


def test_an_actor_that_is_no_longer_wanted_is_not_missing() -> None:
    seen = Seen()
    seen.outages.actors(placed(a1="serving", a2="serving"))
    seen.outages.actors(placed(a1="serving", a2="leaving"))
    seen.outages.actors(placed(a1="serving"))
    seen.outages.end()
    assert seen.rows == []


def test_the_broker_is_missing_from_its_last_answer_to_its_next() -> None:
    seen = Seen()
    seen.outages.broker(answers=True)
    for seen.now, answers in ((101.0, False), (106.0, False), (111.0, True), (112.0, True)):
        seen.outages.broker(answers=answers)
    assert seen.told() == [("broker", "", 100.0, 111.0, 0)]


def test_what_is_missing_at_the_end_is_told_too() -> None:
    seen = Seen()
    seen.outages.broker(answers=False)
    seen.now = 130.0
    seen.outages.end()
    seen.outages.end()
    assert seen.told() == [("broker", "", 100.0, 130.0, 0)]
