"""What is a prompt, and how the columns of a data set become the arguments of a reward."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isentrope.errors import DataError
from isentrope.rollout.data.rows import RowShape, checked_prompt

SHAPE = RowShape(prompt="question", columns={"answer": "label"}, source="train")


def test_a_row_has_its_prompt_renamed_columns_and_all_others() -> None:
    row = SHAPE.row({"question": "1+1", "label": 2, "level": "easy"}, "f:1")
    assert row.prompt == "1+1"
    assert row.columns == {"answer": 2, "level": "easy"}
    assert (row.source, row.where) == ("train", "f:1")


def test_columns_may_swap_their_names() -> None:
    shape = RowShape("prompt", {"a": "b", "b": "a"}, "train")
    assert shape.row({"prompt": "p", "a": 1, "b": 2}, "f:1").columns == {"a": 2, "b": 1}


def test_a_dotted_name_reaches_into_a_column_which_stays() -> None:
    raw = {"chat": [{"text": "1+1"}], "reward_model": {"style": "rule", "ground_truth": "2"}, "a.b": 3}
    row = RowShape("chat.0.text", {"answer": "reward_model.ground_truth", "whole": "a.b"}, "train").row(raw, "f:1")
    assert row.prompt == "1+1"
    assert row.columns == {"chat": raw["chat"], "reward_model": raw["reward_model"], "answer": "2", "whole": 3}


@pytest.mark.parametrize("name", ["reward_model.truth", "reward_model.style.x", "chat.1.text", "chat.x", "none.a"])
def test_a_dotted_name_that_leads_nowhere_is_a_missing_column(name: str) -> None:
    raw = {"prompt": "p", "chat": [{"text": "1+1"}], "reward_model": {"style": "rule", "ground_truth": None}}
    with pytest.raises(DataError, match=f"column '{name}' is missing"):
        RowShape("prompt", {"answer": name}, "train").row(raw, "f:1")


@pytest.mark.parametrize(
    ("raw", "what", "fix"),
    [
        (
            {"question": "1+1", "reward_model": {"label": 2}},
            "column 'label' is missing",
            'set data.columns.answer = "reward_model.label"',
        ),
        ({"query": "1+1", "label": 2}, "column 'question' is missing", 'set data.prompt = "'),
        ({"questoin": "1+1", "label": 2}, "column 'question' is missing", 'set data.prompt = "questoin"'),
        ({"question": "1+1", "labels": 2}, "column 'label' is missing", 'set data.columns.answer = "labels"'),
        ({"question": "1+1", "label": 2, "answer": 3}, "column 'answer' is also", "rename it"),
        ({"question": "1+1", "label": 2, "prompts": 3}, "column 'prompts' is an argument", "rename it"),
        ({"question": "1+1", "label": 2, "completion_ids": 3}, "column 'completion_ids' is an argument", "rename it"),
    ],
)
def test_a_column_that_cannot_be_used_is_named_with_what_to_set(raw: dict[str, object], what: str, fix: str) -> None:
    with pytest.raises(DataError) as caught:
        SHAPE.row(raw, "train.jsonl:7")
    assert what in caught.value.what and fix in caught.value.fix
    assert "train.jsonl:7" in caught.value.where


def test_a_missing_column_lists_those_that_exist_and_offers_what_others_call_it() -> None:
    with pytest.raises(DataError) as caught:
        RowShape("prompt", {}, "train").row({"question": "1+1", "label": 2}, "f:1")
    assert caught.value.where == "f:1 (columns: question, label)"
    assert caught.value.fix == 'set data.prompt = "question"'


USER = {"role": "user", "content": "hi"}


@pytest.mark.parametrize(
    ("prompt", "what"),
    [
        ("", "empty"),
        (" \n", "empty"),
        ("half \ud83d", "half of a surrogate pair"),
        ([{"role": "user", "content": "\udc00"}], "half of a surrogate pair"),
        (None, "NoneType None"),
        (3, "int 3"),
        ([], "list []"),
        ({"role": "user", "content": "hi"}, "dict"),
        (["hi"], "a message is str 'hi'"),
        ([USER, {"role": "assistant", "content": "ho"}], "there is nothing to answer"),
        ([{"content": "hi"}], "'role' of a message is missing"),
        ([{"role": "user", "content": [{"type": "image"}]}], "'content' of a message is list"),
        ([{"role": "user", "content": None}], "'content' of a message is missing"),
        ([{"role": 1, "content": "hi"}], "'role' of a message is int 1"),
        ([{**USER, "tool_calls": [1]}], "'tool_calls' of a message is list"),
    ],
)
def test_what_is_not_a_prompt_is_refused_with_its_place(prompt: object, what: str) -> None:
    with pytest.raises(DataError) as caught:
        checked_prompt(prompt, "f:3")
    assert what in caught.value.what
    assert caught.value.where.startswith("f:3")


def test_absent_fields_of_parquet_messages_vanish() -> None:
    assert checked_prompt([{**USER, "name": None}], "f:1") == [USER]


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists))
def test_any_value_is_a_prompt_or_a_data_error(value: object) -> None:
    try:
        checked_prompt(value, "f:1")
    except DataError as error:
        assert len(error.what) < 200


def test_a_system_message_goes_before_chats_that_have_none() -> None:
    shape = RowShape("prompt", {}, "train", system="Be brief.")
    system, own = {"role": "system", "content": "Be brief."}, {"role": "system", "content": "Be long."}
    assert shape.row({"prompt": [USER]}, "f:1").prompt == [system, USER]
    assert shape.row({"prompt": [own, USER]}, "f:1").prompt == [own, USER]
    with pytest.raises(DataError, match="no place for"):
        shape.row({"prompt": "1+1"}, "f:1")


def test_steps_of_a_row_stay_a_column_and_are_refused_where_they_are_none() -> None:
    shape = RowShape("prompt", {}, "train", steps="judge.steps")
    judged = {"steps": [["1 + 1 = 2", True]]}
    row = shape.row({"prompt": "p", "judge": judged}, "f:1")
    assert row.steps == {"1 + 1 = 2": True} and row.columns == {"judge": judged}
    with pytest.raises(DataError, match="does not hold steps: a step is") as refused:
        shape.row({"prompt": "p", "judge": {"steps": [["1 + 1 = 2"]]}}, "train.jsonl:7")
    assert refused.value.where == "train.jsonl:7" and "null where none is known" in refused.value.fix
    with pytest.raises(DataError, match=r"column 'judge\.steps' is missing"):
        shape.row({"prompt": "p"}, "f:1")
