"""A rank is silent from when it counts no more, as rank 0 sees it on its own clock."""

from torch._C._distributed_c10d import HashStore
from waits import wait_until

from isentrope.learner.training import rank_beats
from isentrope.learner.training.rank_beats import RankBeats


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_rank_is_silent_from_its_last_count_on() -> None:
    clock, store = Clock(), HashStore()
    beats = RankBeats(store, 0, 3, clock)
    store.set("1", "0")
    assert beats.silent_s() == [0, 0, 0]
    clock.now += 5
    store.set("1", "1")
    assert beats.silent_s() == [0, 0, 5]
    clock.now += 2
    assert beats.silent_s() == [0, 2, 7]
    store.set("2", "0")
    assert beats.silent_s() == [0, 2, 0]


def test_time_in_which_rank_0_itself_was_stopped_counts_for_no_rank_that_went_on() -> None:
    clock, store = Clock(), HashStore()
    beats = RankBeats(store, 0, 2, clock)
    store.set("1", "0")
    beats.silent_s()
    clock.now += 1000
    store.set("1", "800")
    assert beats.silent_s() == [0, 0]


def test_a_rank_counts_without_being_asked() -> None:
    store = HashStore()
    RankBeats(store, 1, 2)
    first = wait_until(lambda: store.check(["1"]) and store.get("1"), "a sign of life")
    wait_until(lambda: store.get("1") != first, "the next one", poll_s=rank_beats.BEAT_S / 10)
