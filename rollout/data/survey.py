"""Facts gathered while the rows of a file are read: how long prompts are, and which kinds of values columns hold."""

from array import array
from collections.abc import Iterator
from dataclasses import dataclass

from isentrope.rollout.data.rows import Messages, Row

SPECIAL_TOKENS = 16
"""Most tokens that a tokenizer adds to a text."""

TEMPLATE_TOKENS = 512
"""Most tokens that a chat template adds to a chat, such as a system message of its own."""

MESSAGE_TOKENS = 16
"""Most tokens that a chat template adds to a message."""


@dataclass(slots=True)
class Example:
    """The first row whose `column` holds a value of this kind, and the number of such rows."""

    column: str
    kind: str
    index: int
    count: int = 1


class Survey:
    """Facts of all rows of a file."""

    def __init__(self) -> None:
        self.most_tokens = array("q")
        """Upper bound of each prompt's tokens."""
        self._examples: dict[tuple[str, str], Example] = {}

    def add(self, row: Row) -> None:
        """Take the next row into account."""
        index = len(self.most_tokens)
        self.most_tokens.append(most_tokens(row.prompt))
        for column, value in row.columns.items():
            kind = _kind(value)
            if found := self._examples.get((column, kind)):
                found.count += 1
            else:
                self._examples[column, kind] = Example(column, kind, index)

    def examples(self) -> Iterator[Example]:
        """Yield one example of each kind of value that a column holds, by the row where it is met first."""
        yield from sorted(self._examples.values(), key=lambda example: example.index)


def most_tokens(prompt: str | Messages) -> int:
    """Return an upper bound of a prompt's tokens: its bytes, and what tokenizer and chat template add."""
    if isinstance(prompt, str):
        return len(prompt.encode()) + SPECIAL_TOKENS
    texts = (text for message in prompt for text in message.values())
    return sum(len(text.encode()) for text in texts) + MESSAGE_TOKENS * len(prompt) + TEMPLATE_TOKENS


def _kind(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, str) and not value.strip():
        return "empty text"
    return _KINDS.get(type(value), type(value).__name__)


_KINDS = {str: "text", bool: "true or false", int: "a whole number", float: "a number", list: "a list", dict: "a table"}
