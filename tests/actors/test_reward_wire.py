"""Answers of a reward's process: what was sent comes back the same, and nothing else is taken for one."""

import math
import struct

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from isentrope.actors.reward_wire import MAX_TEXT, Answer, Failed, Scored, to_message, to_outcome
from isentrope.errors import ConfigError, InternalError, IsentropeError, RewardError, StorageError
from isentrope.rollout.config import MAX_REWARD
from isentrope.rollout.rewards.functions import MAX_ANSWER_BYTES, MAX_COMPONENTS, Score
from isentrope.rollout.rewards.steps import MAX_STEPS, Step

NUMBERS = st.floats(-MAX_REWARD, MAX_REWARD)
STEPS = st.lists(st.integers(0, 99), max_size=6, unique=True).map(
    lambda cuts: tuple(Step(start, end, start % 2 == 0) for start, end in zip(*[iter(sorted(cuts))] * 2, strict=False))
)
SCORES = st.builds(
    Score,
    NUMBERS,
    st.dictionaries(st.text(max_size=20), NUMBERS, max_size=4),
    st.text(max_size=MAX_ANSWER_BYTES // 4),
    st.none() | STEPS,
)


def bits(number: float) -> bytes:
    return struct.pack("d", number)


@given(st.lists(SCORES, max_size=4))
def test_scores_come_back_to_the_bit(scores: list[Score]) -> None:
    frame = Answer(call=7, outcomes=[to_message(each) for each in scores]).model_dump_json().encode()
    for sent, outcome in zip(scores, Answer.read(frame, 7).outcomes, strict=True):
        came = to_outcome(outcome)
        assert isinstance(came, Score) and came.answer == sent.answer and came.steps == sent.steps
        assert bits(came.reward) == bits(sent.reward)
        assert {name: bits(value) for name, value in came.parts.items()} == {
            name: bits(value) for name, value in sent.parts.items()
        }


@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode(errors="replace")))
@example(b"[" * 100_000)
@example(b'{"call": 7, "outcomes": ' + b"[" * 100_000)
def test_what_is_not_an_answer_is_refused(frame: bytes) -> None:
    with pytest.raises(ValueError, match=r".+"):
        Answer.read(frame, 7)


@pytest.mark.parametrize(
    "score",
    [
        '{"reward": NaN, "parts": {}, "answer": ""}',
        '{"reward": 1e999, "parts": {}, "answer": ""}',
        '{"reward": 1' + "0" * 400 + ', "parts": {}, "answer": ""}',
        '{"reward": "1", "parts": {}, "answer": ""}',
        '{"reward": true, "parts": {}, "answer": ""}',
        '{"reward": 1, "parts": {"a": Infinity}, "answer": ""}',
        '{"reward": 1, "parts": {"a": {"b": 1}}, "answer": ""}',
        '{"reward": 1, "parts": {}, "answer": 3}',
        '{"reward": 1, "parts": {}, "answer": "' + "x" * (MAX_ANSWER_BYTES + 1) + '"}',
        '{"reward": 1, "parts": {}, "answer": "", "more": 1}',
        '{"reward": 1, "parts": {' + ",".join(f'"{i}": 1' for i in range(MAX_COMPONENTS + 1)) + '}, "answer": ""}',
        '{"reward": 1, "parts": {}, "answer": "", "steps": [[0, 1]]}',
        '{"reward": 1, "parts": {}, "answer": "", "steps": [[0, 1, 2]]}',
        '{"reward": 1, "parts": {}, "answer": "", "steps": [' + "[0, 1, true]," * MAX_STEPS + "[0, 1, true]]}",
        '{"kind": "SystemExit", "what": "", "where": "", "fix": ""}',
        '{"kind": "RewardError", "what": "' + "x" * (MAX_TEXT + 1) + '", "where": "", "fix": ""}',
    ],
)
def test_a_score_of_another_form_is_refused(score: str) -> None:
    with pytest.raises(ValueError, match="outcomes"):
        Answer.read(f'{{"call": 7, "outcomes": [{score}]}}'.encode(), 7)


def test_steps_that_overlap_are_an_error_of_their_response() -> None:
    scored = Scored(reward=1.0, parts={}, answer="", steps=[Step(0, 3, True), Step(2, 4, True)])
    assert isinstance(to_outcome(scored), RewardError)


def test_an_answer_to_another_call_is_refused() -> None:
    with pytest.raises(ValueError, match="call 6"):
        Answer.read(Answer(call=6).model_dump_json().encode(), 7)


@pytest.mark.parametrize("kind", [ConfigError, InternalError, RewardError])
def test_an_error_keeps_kind_and_words(kind: type[IsentropeError]) -> None:
    failed = Failed.of(kind("half \ud800 of a pair", where="w", fix="f"))
    came = Answer.read(Answer(call=1, failed=failed).model_dump_json().encode(), 1).failed
    assert came is not None and type(came.error()) is kind
    assert (came.error().what, came.error().where, came.error().fix) == ("half \\ud800 of a pair", "w", "f")


def test_an_error_of_another_kind_is_a_bug_and_a_long_one_is_cut_off() -> None:
    failed = Failed.of(StorageError("x" * (2 * MAX_TEXT)))
    assert type(failed.error()) is InternalError and failed.error().what == "x" * MAX_TEXT


def test_an_answer_holds_what_utf_8_cannot() -> None:
    message = to_message(Score(1.0, {"\ud800": math.pi}, "\ud800"))
    assert isinstance(message, Scored)
    frame = Answer(call=1, outcomes=[message]).model_dump_json().encode()
    assert to_outcome(Answer.read(frame, 1).outcomes[0]) == Score(1.0, {"\\ud800": math.pi}, "\\ud800")
