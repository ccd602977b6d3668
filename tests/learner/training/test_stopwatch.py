"""Where time goes: every second is counted once, under the name it was spent on."""

from collections import defaultdict
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isentrope.learner.training import stopwatch
from isentrope.learner.training.stopwatch import Stopwatch

names = st.sampled_from("abc")
spans = st.tuples(names, st.integers(0, 100), st.booleans())


@given(st.lists(st.lists(spans, max_size=8), max_size=4))
def test_all_time_is_counted_by_name_and_taken_once(takes: list[list[tuple[str, int, bool]]]) -> None:
    now = [5.0]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stopwatch.time, "monotonic", lambda: now[0])
        watch = Stopwatch()
        for spent in takes:
            expected: defaultdict[str, float] = defaultdict(float)
            for name, seconds, fails in spent:
                expected[name] += seconds
                with suppress(KeyError), watch(name):  # an error inside is time spent too
                    now[0] += seconds
                    if fails:
                        raise KeyError
            assert watch.take() == expected
        assert watch.take() == {}
        assert watch.total_s == sum(seconds for spent in takes for _, seconds, _ in spent)


def test_what_was_measured_elsewhere_is_added() -> None:
    watch = Stopwatch()
    watch.add("a", 1.0)
    watch.add("a", 2.0)
    watch.add("b", 0.5)
    assert watch.take() == {"a": 3.0, "b": 0.5}
