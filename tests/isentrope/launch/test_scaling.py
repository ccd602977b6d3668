"""Which actor leaves, and when a run asks for another number of them by itself."""

from collections.abc import Sequence
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st
from run_records import make_row

from isentrope.launch.scaling import BATCHES, REST, Lag, Seat, Step, next_to_leave
from isentrope.learner.records import BatchRow

SECONDS = 10.0
"""Time of a batch."""


def row(batch: int, idle: float) -> BatchRow:
    """A batch in which the learner waited for a share `idle` of its time."""
    time = make_row().time.model_copy(update={"seconds_total": batch * SECONDS, "wait_s": idle * SECONDS})
    return make_row(batch, time=time)


def decide(
    lag: Lag, idle: Sequence[float], *, actors: int = 2, closed: Sequence[bool] = (False,), waits: bool = False
) -> list[int]:
    """Feed batches, with the same looks before each; return the steps."""
    found = []
    for batch, share in enumerate(idle, 1):
        for look in closed:
            lag.look(look)
        step = lag.batch(row(batch, share), actors, waits=waits)
        found.append(step.by if step is not None else 0)
        actors += found[-1]
    return found


@given(seats=st.sets(st.builds(Seat, st.integers(1, 9), st.booleans(), st.integers(0, 4)), min_size=1))
def test_who_serves_stays_as_long_as_another_does_not_and_the_oldest_stays_longest(seats: set[Seat]) -> None:
    leaves = next_to_leave(seats)
    assert not leaves.serves or all(seat.serves for seat in seats)
    alike = [seat for seat in seats if seat.serves == leaves.serves]
    assert leaves.number == max(seat.number for seat in alike)
    assert leaves.leases == min(seat.leases for seat in alike if seat.number == leaves.number)


def test_a_learner_that_waits_gets_one_actor_more_and_the_effect_is_awaited() -> None:
    steps = decide(Lag(1, 9), [0.5] * 12)
    assert steps[:BATCHES] == [0] * BATCHES  # too little is known
    changes = [number for number, step in enumerate(steps) if step]
    assert set(steps) == {0, 1} and all(b - a == REST + 1 for a, b in pairwise(changes))


def test_one_slow_batch_is_not_a_lack_of_actors() -> None:
    assert decide(Lag(1, 9), [0.0, 0.0, 0.0, 0.0, 0.5, 0.0, 0.0, 0.0, 0.0]) == [0] * 9


def test_one_batch_of_closed_admission_is_not_too_many_actors() -> None:
    lag = Lag(1, 9)
    for batch in range(1, 12):
        for _ in range(6):
            lag.look(batch == 7)
        assert lag.batch(row(batch, 0.0), 2, waits=False) is None


def test_closed_admission_takes_one_away_and_the_bounds_hold() -> None:
    assert sum(decide(Lag(1, 9), [0.0] * 40, actors=3, closed=[True, True, False])) == -2
    assert sum(decide(Lag(1, 3), [0.9] * 40, actors=2)) == 1
    assert decide(Lag(1, 9), [0.0] * 9, closed=[True, False]) == [0] * 9


def test_none_is_asked_for_while_one_waits_for_room() -> None:
    assert decide(Lag(1, 9), [0.9] * 12, waits=True) == [0] * 12


def test_a_learner_that_was_started_again_is_measured_anew() -> None:
    lag = Lag(1, 9)
    assert decide(lag, [0.5, 0.5, 0.5]) == [0, 0, 0]
    assert decide(lag, [0.5, 0.5, 0.5]) == [0, 0, 0]


def test_a_decision_states_what_it_was_made_from() -> None:
    lag = Lag(1, 9)
    decide(lag, [0.5] * BATCHES)
    for look in (True, False, False, False):
        lag.look(look)
    assert lag.batch(row(BATCHES + 1, 0.5), 2, waits=False) == Step(1, 0.5, 1 / 6)  # with older looks
