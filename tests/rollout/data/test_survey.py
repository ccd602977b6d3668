"""The survey bounds each prompt's tokens, and keeps one row of each kind of value."""

from hypothesis import given
from hypothesis import strategies as st

from isentrope.rollout.data.rows import Row
from isentrope.rollout.data.survey import Survey, most_tokens

VALUES = st.sampled_from([None, "", " ", "text", True, 1, 1.5, [], {}])


@given(values=st.lists(st.tuples(VALUES, VALUES), min_size=1))
def test_each_kind_of_each_column_has_its_first_row_and_its_count(values: list[tuple[object, object]]) -> None:
    survey = Survey()
    for first, second in values:
        survey.add(Row("p", {"first": first, "second": second}, "train", "f:1"))
    examples = list(survey.examples())
    assert sum(example.count for example in examples) == 2 * len(values)
    assert [example.index for example in examples] == sorted(example.index for example in examples)
    for place, column in enumerate(("first", "second")):
        nulls = [index for index, row in enumerate(values) if row[place] is None]
        told = [
            (example.index, example.count) for example in examples if (example.column, example.kind) == (column, "null")
        ]
        assert told == ([(nulls[0], len(nulls))] if nulls else [])


@given(text=st.text(st.characters(exclude_categories=["Cs"])))
def test_a_prompt_has_at_most_a_token_for_each_byte_and_what_is_added(text: str) -> None:
    assert most_tokens(text) >= len(text.encode())
    assert most_tokens([{"role": "user", "content": text}] * 3) >= 3 * len(text.encode())
