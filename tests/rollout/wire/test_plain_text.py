"""Text from outside: whatever it holds, a terminal shows it and does nothing."""

import unicodedata
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isentrope.rollout.wire.plain_text import inactive, printable

ATTACKS = ["\x1b[2J", "\x1b]52;c;aGk=\x07", "\x1b]0;title\x07", "a\rb", "\x9b31m", "\u202etxt.exe", "\ud800", "a\nb\tc"]


@pytest.mark.parametrize("text", ATTACKS)
@pytest.mark.parametrize("made", [printable, inactive])
def test_nothing_is_left_that_a_terminal_acts_on(text: str, made: Callable[[str], str]) -> None:
    shown = made(text)
    assert all(unicodedata.category(char) not in ("Cc", "Cs") or char in "\t\n" for char in shown)
    assert not set(shown) & set("\x1b\x9b\u202e")
    assert shown.encode()


@given(st.text(st.characters(exclude_categories=("Cc", "Cs", "Zl", "Zp", "Cf"))))
def test_other_text_stays_as_it_is(text: str) -> None:
    assert printable(text) == inactive(text) == text


def test_lines_are_kept_or_joined() -> None:
    assert inactive("a\nb\tc\x07") == "a\nb\tc\\x07"
    assert printable("a\n\tb") == "a b"
