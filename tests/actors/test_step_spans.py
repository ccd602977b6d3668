"""Steps by characters become steps by tokens: each token belongs to the first step that it touches."""

from itertools import accumulate

from hypothesis import given
from hypothesis import strategies as st

from isentrope.actors.step_spans import to_tokens
from isentrope.rollout.rewards.steps import Step
from isentrope.rollout.wire.types import Steps


def spans(steps: list[Step], pieces: list[int]) -> Steps:
    """Steps of a text whose tokens have so many characters."""
    lengths = [0, *accumulate(pieces)]
    return to_tokens(steps, len(pieces), lengths.__getitem__)


@given(
    st.lists(st.integers(0, 4), min_size=1, max_size=20),
    st.lists(st.tuples(st.integers(0, 3), st.integers(1, 6), st.booleans()), max_size=8),
)
def test_tokens_of_a_step_are_those_with_a_character_in_it_and_in_no_earlier_one(
    pieces: list[int], drawn: list[tuple[int, int, bool]]
) -> None:
    steps, place = [], 0
    for gap, size, correct in drawn:
        steps.append(Step(place + gap, place + gap + size, correct))
        place += gap + size
    found = spans(steps, pieces)
    painted: list[int | None] = [None] * len(pieces)
    for number, (start, end) in enumerate(zip(found.start.tolist(), found.end.tolist(), strict=True)):
        assert start < end
        painted[start:end] = [number] * (end - start)
    firsts = [0, *accumulate(pieces)]
    owner = []
    for token, size in enumerate(pieces):
        inside = [i for i, s in enumerate(steps) if s.start < firsts[token] + size and firsts[token] < s.end and size]
        owner.append(inside[0] if inside else None)
    kept = sorted({each for each in owner if each is not None})
    assert [steps[number].correct for number in kept] == found.correct.tolist()
    for token, each in enumerate(owner):
        if each is not None:
            assert painted[token] == kept.index(each)


def test_what_lies_behind_the_text_is_left_out() -> None:
    found = spans([Step(0, 2, True), Step(5, 9, False), Step(20, 30, True)], [1, 1, 4])
    assert found.start.tolist() == [0, 2] and found.end.tolist() == [2, 3] and found.correct.tolist() == [True, False]
    assert len(spans([], [3]).start) == 0
