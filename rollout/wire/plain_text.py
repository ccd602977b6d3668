"""Text from outside as text: nothing in it moves a cursor, ends a line, or turns the direction of what follows."""

import re

_ACTIVE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Characters that a terminal or a reader of lines acts on, but for the end of a line and the tabulator."""

_ENDS = re.compile("[\t\n]+")


def printable(text: str) -> str:
    """Return a text as one line, its active characters as escapes such as `\\x1b`."""
    return _ENDS.sub(" ", inactive(text))


def inactive(text: str) -> str:
    """Return a text with its lines, its other active characters as escapes."""
    return _ACTIVE.sub(lambda found: ascii(found[0])[1:-1], text)
