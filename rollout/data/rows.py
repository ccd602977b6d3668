"""One row of data, and the rules for a prompt. Files are in `tables.py`, tokenizers in `prompts.py`."""

from collections.abc import Mapping
from dataclasses import dataclass

from isentrope.errors import DataError, nearest
from isentrope.rollout.data.known_steps import read_known_steps

Messages = list[dict[str, str]]
"""A chat: `[{"role": ..., "content": ...}, ...]`; text only."""

RESERVED = ("prompts", "completions", "completion_ids")
"""Arguments a reward function gets besides the columns; a column must not have one of these names."""

_ALIASES = {
    "prompt": ("question", "problem", "query", "input", "instruction", "messages"),
    "answer": ("ground_truth", "label", "solution", "target", "expected_answer"),
}
"""Names of these two columns in other projects: suggested in a message, never used without being configured."""


@dataclass(frozen=True, slots=True)
class Row:
    """One problem.

    prompt: text, or chat messages. columns: all other columns, by the names the reward expects. source: data set.
    where: place of the row for messages, such as `train.jsonl:7`. steps: verdicts on steps by their normal text; None:
    the data holds none. demonstration: an expert's response; empty: none.
    """

    prompt: str | Messages
    columns: Mapping[str, object]
    source: str
    where: str
    steps: Mapping[str, bool] | None = None
    demonstration: str = ""


@dataclass(frozen=True, slots=True)
class RowShape:
    """Mapping from the columns of one data set to a `Row`.

    prompt: the column that holds the prompt. columns: name the reward expects = name in the data. source: name of the
    data set. system: system message of chats that have none; empty: they stay without. steps: the column that holds
    steps with their verdicts; empty: none does. demonstration: the column that holds an expert's response, which stays
    a column; empty: none does.
    """

    prompt: str
    columns: Mapping[str, str]
    source: str
    system: str = ""
    steps: str = ""
    demonstration: str = ""

    def row(self, raw: Mapping[str, object], where: str) -> Row:
        """Return the row of `raw`, or a `DataError` that names the column and what to set."""
        columns = dict(raw)
        demonstration = _demonstration(raw, self.demonstration, where) if self.demonstration else ""
        steps = _known_steps(columns, self.steps, where) if self.steps else None
        given = _taken(columns, self.prompt, "data.prompt", where)
        prompt = _with_system(checked_prompt(given, where), self.system, where)
        renamed = {name: _taken(columns, given, f"data.columns.{name}", where) for name, given in self.columns.items()}
        for name in columns:
            if name in RESERVED or name in renamed:
                whose = "an argument of every reward function" if name in RESERVED else "also the new name of another"
                raise DataError(
                    f"column {name!r} is {whose}",
                    where=where,
                    fix=f'rename it in the data, or set data.columns.<another name> = "{name}"',
                )
        return Row(prompt, columns | renamed, self.source, where, steps, demonstration)


def _taken(columns: dict[str, object], name: str, key: str, where: str) -> object:
    """Remove column `name` and return its value; of a dotted name, return the value inside tables and lists, which
    stay. `key` is the configuration key that names the column."""
    if name in columns:
        return columns.pop(name)
    try:
        return value_of(columns, name)
    except KeyError:
        there = f"{where} (columns: {', '.join(columns) or 'none'})"
        raise DataError(f"column {name!r} is missing", where=there, fix=set_column(key, name, columns)) from None


def _known_steps(columns: dict[str, object], name: str, where: str) -> dict[str, bool]:
    """Return the steps of column `name`, which the reward gets as any other; DataError if they are not steps."""
    try:
        return read_known_steps(_taken(dict(columns), name, "data.steps", where))
    except ValueError as error:
        raise DataError(
            f"column {name!r} does not hold steps: {error}",
            where=where,
            fix='write [["3 + 4 = 7", true], ...], or null where none is known',
        ) from error


def value_of(columns: Mapping[str, object], name: str) -> object:
    """Return the value of a column, or by a dotted name that inside tables and lists; KeyError if it is missing."""
    if name in columns:
        return columns[name]
    value: object = columns
    for part in name.split("."):
        inner: Mapping[str, object] = {}
        if isinstance(value, Mapping):
            inner = value
        elif isinstance(value, list):
            inner = {str(place): each for place, each in enumerate(value)}
        value = inner[part]
    return value


def set_column(key: str, name: str, columns: Mapping[str, object]) -> str:
    """Return advice for a missing column `name`: the configuration `key` to set, to the column most likely meant."""
    return f'set {key} = "{_meant(name, columns) or "<the column that holds it>"}"'


def _meant(name: str, columns: Mapping[str, object]) -> str:
    """Return the column most likely meant by `name`, or the value inside one; empty if none resembles it."""
    places = {column: column for column in columns}
    for column, value in columns.items():
        for inner in value if isinstance(value, Mapping) else ():
            places.setdefault(str(inner), f"{column}.{inner}")
    aliases = (alias for alias in _ALIASES.get(name, ()) if alias in places)
    return places.get(nearest(name, places) or next(aliases, ""), "")


def checked_prompt(value: object, where: str) -> str | Messages:
    """Return `value` if it is a prompt: text, or chat messages of which the last is not the assistant's."""
    if isinstance(value, str):
        if not value.strip():
            raise DataError("the prompt is empty", where=where, fix="remove the row or fill the prompt")
        return _checked_text(value, where)
    if isinstance(value, list) and value:
        messages = [_checked_message(message, f"{where}, message {i}") for i, message in enumerate(value)]
        if messages[-1]["role"] == "assistant":
            raise DataError(
                "the last message of the prompt is the assistant's, so there is nothing to answer",
                where=where,
                fix="end the prompt with a message from the user (or a tool)",
            )
        return messages
    raise DataError(
        f"the prompt is {_short(value)}",
        where=where,
        fix='a prompt is text, or a non-empty list of {"role": ..., "content": ...} messages',
    )


def _demonstration(raw: Mapping[str, object], name: str, where: str) -> str:
    """Return the expert's response in column `name`, empty if the row has none."""
    try:
        value = value_of(raw, name)
    except KeyError:
        there = f"{where} (columns: {', '.join(raw)})"
        fix = set_column("data.demonstration", name, raw)
        raise DataError(f"column {name!r} is missing", where=there, fix=fix) from None
    if isinstance(value, list) and value:
        last = _checked_message(value[-1], f"{where}, last message of {name!r}")
        value = last["content"] if last["role"] == "assistant" else value
    if value is None or isinstance(value, str):
        return _checked_text(value, where) if value and value.strip() else ""
    raise DataError(
        f"the demonstration is {_short(value)}",
        where=where,
        fix="a demonstration is text, messages of which the last is the assistant's, or null",
    )


def _with_system(prompt: str | Messages, system: str, where: str) -> str | Messages:
    """Return the prompt with the message `system` before it, unless that is empty or the chat begins with its own."""
    if not system:
        return prompt
    if isinstance(prompt, str):
        raise DataError(
            "the prompt is text, which has no place for data.system_prompt",
            where=where,
            fix='give the prompt as messages, [{"role": "user", "content": ...}], or leave data.system_prompt out',
        )
    if prompt[0]["role"] == "system":
        return prompt
    return [{"role": "system", "content": system}, *prompt]


def _checked_message(message: object, where: str) -> dict[str, str]:
    if not isinstance(message, dict):
        raise DataError(f"a message is {_short(message)}", where=where, fix='write {"role": ..., "content": ...}')
    texts = {key: value for key, value in message.items() if value is not None}  # parquet fills absent fields with null
    for key in ("role", "content", *texts):
        if not isinstance(texts.get(key), str):
            given = _short(texts[key]) if key in texts else "missing"
            raise DataError(f"{key!r} of a message is {given}", where=where, fix="fields of a message are text")
        _checked_text(texts[key], where)
    return texts


def _checked_text(text: str, where: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"{text[error.start]!r} is half of a surrogate pair, not a character", where=where, fix="fix the text"
        ) from error
    return text


def _short(value: object) -> str:
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= 60 else text[:57] + '...'}"
