"""What all errors share: the name that was probably meant."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isentrope.errors import nearest
from isentrope.learner.objective.presets import method_names

NAMES = st.text(string.ascii_lowercase, min_size=3, max_size=12)


@given(NAMES, st.data())
def test_a_name_with_one_wrong_letter_or_the_wrong_case_is_understood(name: str, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(name) - 1))
    slip = data.draw(st.sampled_from([name[:at] + "_" + name[at + 1 :], name[:at] + "_" + name[at:], name.upper()]))
    assert nearest(slip, ["0123456789", name]) == name


@given(NAMES)
def test_a_word_that_shares_no_more_than_half_of_its_letters_is_not_offered(name: str) -> None:
    """Two thirds is the one cutoff. At a half, words that have nothing to do with one another would be offered for
    each other (`rloo` for `rows`); at three quarters, one slip in a name of three letters would not be understood."""
    half = name[: len(name) // 2]
    assert nearest(half + "0" * (len(name) - len(half)), [name]) == ""


@pytest.mark.parametrize("name", method_names())
def test_every_method_is_itself_the_nearest(name: str) -> None:
    assert nearest(name, method_names()) == name


def test_of_two_that_are_as_near_the_one_with_the_first_letters_is_offered() -> None:
    assert nearest("dappo", ["dapo", "dppo"]) == nearest("dappo", ["dppo", "dapo"]) == "dapo"


def test_nothing_is_offered_where_there_is_nothing() -> None:
    assert nearest("grpo", []) == ""
