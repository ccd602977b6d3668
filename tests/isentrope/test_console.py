"""Lines of the console come out as they are."""

import io

import pytest
from rich.console import Console

from isentrope.console import say


@pytest.mark.parametrize("line", ["[red]/a/folder[/red]: 3 of 4", "x" * 300, "a [link", "12 'batches' True", ""])
def test_a_line_is_printed_as_it_is(line: str) -> None:
    out = io.StringIO()
    say(Console(file=out, width=40, force_terminal=True), line)
    assert out.getvalue() == f"{line}\n"


def test_a_terminal_is_told_nothing_by_a_line() -> None:
    out = io.StringIO()
    say(Console(file=out, width=40, force_terminal=True), "\x1b[2J\x1b]52;c;aGk=\x07 done")
    assert out.getvalue() == "\\x1b[2J\\x1b]52;c;aGk=\\x07 done\n"
