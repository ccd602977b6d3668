"""Reader of a run file and of the command line's `key=value` on top of it, with the place of every key.

Mistakes become short errors that name file, line, key, the given value, the allowed ones and the nearest known key.
"""

import copy
import json
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from isentrope.errors import ConfigError, nearest, requirement
from isentrope.peer_names import advice
from isentrope.rollout.config import PATTERNS, Section

COMMAND_LINE = "command line"

MAX_BYTES = 1 << 20
"""Largest run file."""

MAX_TRIES = 200
"""Lines at which one statement may end, each of which reads it again from its beginning; no place is told after it."""

FILE = "file:"
"""Prefix that tells the path of a text from the text."""

Model = TypeVar("Model", bound=Section)

_KNOWN = "known keys of"

_PRIVATE = {
    "redis": "must be a table; the broker's URL is not in the file: export ISENTROPE_REDIS_URL=redis://...",
    "redis.url_env": "export ISENTROPE_REDIS_URL=redis://..., and leave the key out, or name another variable by it",
}
"""Keys for which a URL with a password may be given -> what to do. Their values are never shown."""

_BARE = re.compile(r"\s*[\w.\"'-]+\s*=\s*([A-Za-z_./~][^\s#]*)")
"""A key with a value that is not quoted and begins as a word or a path."""

_LITERALS = {"True": "true", "False": "false", "None": "", "null": "", "nil": ""}
"""Words of other languages, and those of TOML; empty: it has none."""


@dataclass(frozen=True, slots=True)
class RunFile:
    """A run file as read, overrides applied, not yet validated."""

    path: Path
    values: dict[str, object]
    lines: Mapping[str, str]
    """Dotted key or table -> place that set it: `run.toml:12` or the command line."""
    base_dir: str = ""
    """Value of `run.base_dir`, once it is validated."""

    @property
    def folder(self) -> Path:
        """Folder that relative paths and `module:function` resolve from."""
        return (self.path.parent / self.base_dir).resolve() if self.base_dir else self.path.parent

    def where(self, key: str) -> str:
        """Return the place of a dotted key, or of the innermost table around it that has one."""
        place = key
        while place and place not in self.lines:
            place = place.rpartition(".")[0]
        return f"{self.lines.get(place, self.path.name)}: {key}"


def read(path: Path, overrides: Sequence[str] = ()) -> RunFile:
    """Read `path` and apply `overrides`; ConfigError if there is no such file, or either cannot be parsed."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise ConfigError(
                f"run file {path} is larger than {MAX_BYTES >> 10} KiB", fix="give the run file, not data"
            )
        text = content.decode("utf-8-sig").replace("\r\n", "\n")  # some editors write a byte order mark
    except OSError as error:
        fix = "give a file in it" if path.is_dir() else "give its path, or begin with an example: isentrope init"
        raise ConfigError(f"cannot read run file {path.absolute()}: {error.strerror}", fix=fix) from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"run file {path} is not UTF-8: byte {error.start}", fix="save it as UTF-8") from None
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise _syntax_error(path, text, str(error)) from None
    except RecursionError:
        raise ConfigError(f"run file {path} nests its values too deeply", fix="write them flat") from None
    lines = {key: f"{path.name}:{line}" for key, line in _lines(text)}
    return overridden(RunFile(path.resolve(), values, lines), overrides)


def from_values(path: Path, values: Mapping[str, object]) -> RunFile:
    """Return a run file made by a program; in messages its place is its name without suffix."""
    return RunFile(path, dict(values), dict.fromkeys(_dotted(values), path.stem))


def overridden(file: RunFile, overrides: Sequence[str]) -> RunFile:
    """Return the file with each `key=value` in force; ConfigError if one cannot be parsed."""
    values, lines = copy.deepcopy(file.values), dict(file.lines)
    for override in overrides:
        _apply(values, lines, override)
    return replace(file, values=values, lines=lines)


def validate(file: RunFile, model: type[Model]) -> Model:
    """Return the file's values as `model`; raise ConfigError, or a group of them if several things are wrong."""
    try:
        return _parse(file.values, model)
    except ValidationError as error:
        raise_all(_rewrite(file, model, error.errors(include_url=False)))
        raise


def read_text(file: RunFile, key: str, value: str) -> str:
    """Return a text that a run file gives as itself, or as `file:` and a path.

    Raises:
        ConfigError: the file cannot be read as text, or the text is the name of a file that exists.
    """
    if not value.startswith(FILE):
        if value and _is_file(file.folder / value):
            raise ConfigError(
                f"{value!r} is the name of a file", where=file.where(key), fix=f'write {key} = "{FILE}{value}"'
            )
        return value
    path = file.folder / value.removeprefix(FILE)
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        reason = "it is not UTF-8" if isinstance(error, UnicodeDecodeError) else getattr(error, "strerror", error)
        raise ConfigError(f"cannot read {path}: {reason}", where=file.where(key), fix="check the path") from None


def _is_file(path: Path) -> bool:
    """Return True if there is such a file. A text may be too long for a name, or hold what none may."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def salvage(
    file: RunFile, model: type[Model], stand_ins: Mapping[str, object]
) -> tuple[Model, list[ConfigError], set[str]]:
    """Return the file's values as `model` without the keys that are wrong, their errors, and these keys.

    A wrong key takes its default, or, where it has none, the value that `stand_ins` has for its dotted name.
    """
    try:
        return validate(file, model), [], set()
    except (ConfigError, ExceptionGroup) as error:
        errors = list(error.exceptions) if isinstance(error, ExceptionGroup) else [error]
    left = copy.deepcopy(file.values)
    wrong: set[str] = set()
    while True:
        try:
            return _parse(left, model), [each for each in errors if isinstance(each, ConfigError)], wrong
        except ValidationError as error:
            places = {_place(left, detail).partition("[")[0] for detail in error.errors(include_url=False)}
            if places <= wrong:
                raise  # a key without a default and without a stand-in
        for key in places:
            _remove(left, key)
        for key, value in stand_ins.items():
            _set_default(left, key, value)
        wrong |= places


def raise_all(errors: Sequence[Exception]) -> None:
    """Raise the error, or all of them as a group; return if there are none."""
    if len(errors) > 1:
        raise ExceptionGroup("several things are wrong", errors)
    for error in errors:
        raise error


def _parse(values: Mapping[str, object], model: type[Model]) -> Model:
    return model.model_validate_json(json.dumps(values, default=str), strict=True)


# --- places


def _lines(text: str) -> Iterator[tuple[str, int]]:
    """Yield each dotted key or table with its line. `text` is valid TOML, so a statement ends where it first parses."""
    table = ""
    statement, start, tries = "", 0, 0
    for number, line in enumerate(text.split("\n"), 1):
        if not statement:
            start, tries = number, 0
        statement += line + "\n"
        if not _may_end(line):
            continue
        tries += 1
        if tries > MAX_TRIES:
            return
        try:
            parsed = tomllib.loads(statement)
        except tomllib.TOMLDecodeError:
            continue  # a list or text over several lines
        if statement.lstrip().startswith("["):
            table = ".".join(_tables(parsed))
            yield table, start
        else:
            for key in _dotted(parsed):
                yield (f"{table}.{key}" if table else key), start
        statement = ""


def _may_end(line: str) -> bool:
    """Return False for a line after which a statement goes on in any case: a list has a further line."""
    return "#" in line or line.rstrip()[-1:] not in {",", "[", "{"}


def _tables(parsed: object) -> Iterator[str]:
    """Yield the names on the path to the innermost table of a header."""
    while isinstance(parsed, dict) and parsed:
        ((name, inner),) = parsed.items()
        yield name
        parsed = inner[0] if isinstance(inner, list) else inner


def _dotted(values: Mapping[str, object], prefix: str = "") -> Iterator[str]:
    """Yield all keys of nested tables, tables included."""
    for name, value in values.items():
        yield prefix + name
        if isinstance(value, dict):
            yield from _dotted(value, f"{prefix}{name}.")


def _syntax_error(path: Path, content: str, message: str) -> ConfigError:
    text, _, place = message.partition(" (at ")
    text = re.sub(r"\(('[^)]*)\)", lambda names: names.group(1).replace("', '", ".").strip("',"), text)
    line = re.search(r"line (\d+)", place)
    where = f"{path.name}:{line.group(1)}" if line else f"{path.name}: at its end"
    fix = _quoted(content.split("\n")[int(line.group(1)) - 1]) if line else ""
    return ConfigError(f"not valid TOML: {text[0].lower()}{text[1:]}", where=where, fix=fix or "see https://toml.io")


def _quoted(line: str) -> str:
    """Return advice for a line whose value is a bare word; empty: it is not."""
    bare = _BARE.match(line)
    if bare is None:
        return ""
    word = bare.group(1)
    if word in _LITERALS:
        return f"write {_LITERALS[word]} in lower case" if _LITERALS[word] else "leave the key out"
    return f'text needs quotes: "{word}"'


# --- overrides


def _apply(values: dict[str, object], lines: dict[str, str], override: str) -> None:
    key, found, text = override.partition("=")
    names = key.strip().split(".")
    if not found or not all(names):
        raise ConfigError(f"{override!r} is not key=value", where=COMMAND_LINE, fix="for example learner.batches=20")
    table: dict[str, object] = values
    for name in names[:-1]:
        below = table.setdefault(name, {})
        if not isinstance(below, dict):
            raise ConfigError(
                f"{override!r}: {name} is not a table", where=COMMAND_LINE, fix="leave out what follows it"
            )
        table = below
    table[names[-1]] = _value(text)
    for end in range(1, len(names)):
        lines.setdefault(".".join(names[:end]), COMMAND_LINE)
    lines[".".join(names)] = COMMAND_LINE


def _value(text: str) -> object:
    """Return a value as in TOML; anything else is text, so that quotes for the shell are rarely needed."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
    except RecursionError:
        raise ConfigError("a value is nested too deeply", where=COMMAND_LINE, fix="write it flat") from None


# --- keys that are wrong


def _remove(values: dict[str, object], key: str) -> None:
    """Remove a dotted key, if it is there."""
    table, _, name = key.rpartition(".")
    inner: object = values
    for part in filter(None, table.split(".")):
        inner = inner.get(part) if isinstance(inner, dict) else None
    if isinstance(inner, dict):
        inner.pop(name, None)


def _set_default(values: dict[str, object], key: str, value: object) -> None:
    """Set a dotted key of a table, unless it is there."""
    table, _, name = key.partition(".")
    inner = values.setdefault(table, {})
    if isinstance(inner, dict):
        inner.setdefault(name, value)


# --- errors


def known_keys(model: type[Section], prefix: str = "") -> Iterator[str]:
    """Yield all dotted keys of a configuration model, tables included."""
    for name, field in model.model_fields.items():
        yield prefix + name
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            yield from known_keys(field.annotation, f"{prefix}{name}.")


def unknown_key(file: RunFile, key: str, known: Sequence[str]) -> ConfigError:
    """Return the error for a key that is not in `known`; a known key of the same table is suggested first."""
    table, _, name = key.rpartition(".")
    anywhere = {other.rpartition(".")[2]: other for other in known}
    beside = {other.rpartition(".")[2]: other for other in known if other.rpartition(".")[0] == table}
    if peer := advice(name):
        fix = peer
    elif meant := nearest(name, beside):
        fix = f"did you mean {beside[meant]}?"
    elif meant := nearest(name, anywhere):
        fix = f"did you mean {anywhere[meant]}?"
    else:
        fix = f"{_KNOWN} {f'[{table}]' if table else 'the file'}: {', '.join(beside)}"
    return ConfigError(f"unknown key {key}", where=file.where(key), fix=fix)


def _rewrite(file: RunFile, model: type[Section], details: Sequence[ErrorDetails]) -> list[ConfigError]:
    known = list(known_keys(model))
    by_place: dict[str, list[ErrorDetails]] = {}
    for detail in details:
        by_place.setdefault(_place(file.values, detail), []).append(detail)
    outer = {place for place in by_place if any(each.startswith((f"{place}.", f"{place}[")) for each in by_place)}
    errors = [_one(file, place, found, known) for place, found in by_place.items() if place not in outer]
    return [_listed_before(error, errors[:index]) for index, error in enumerate(errors)]


def _listed_before(error: ConfigError, earlier: Sequence[ConfigError]) -> ConfigError:
    """Return the error without the list of known keys, if an earlier one has it."""
    if not error.fix.startswith(_KNOWN) or all(other.fix != error.fix for other in earlier):
        return error
    return ConfigError(error.what, where=error.where, fix="see the known keys above")


def _place(values: Mapping[str, object], detail: ErrorDetails) -> str:
    """Return the dotted place of an error, without the steps pydantic adds for the branches of a union."""
    place = ""
    value: Any = values
    for depth, step in enumerate(detail["loc"], start=1):
        is_missing = detail["type"] == "missing" and depth == len(detail["loc"])
        if isinstance(value, Mapping) and (step in value or is_missing):
            place, value = f"{place}.{step}" if place else str(step), value.get(step)
        elif isinstance(value, list) and isinstance(step, int) and step < len(value):
            place, value = f"{place}[{step}]", value[step]
    return place


def _one(file: RunFile, place: str, details: Sequence[ErrorDetails], known: Sequence[str]) -> ConfigError:
    kind, given, key = details[0]["type"], details[0]["input"], place.partition("[")[0]
    if kind == "extra_forbidden":
        return unknown_key(file, key, known)
    if kind == "missing" and isinstance(given, dict):
        what = f"table [{key}]" if any(other.startswith(f"{key}.") for other in known) else f"key {key}"
        return ConfigError(f"{what} is missing", where=file.where(key), fix="add it to the run file")
    allowed = " or ".join(dict.fromkeys(_allowed(detail) for detail in details))
    if key in _PRIVATE:
        return ConfigError(f"the value of {place} is not allowed", where=file.where(key), fix=_PRIVATE[key])
    text = json.dumps(given, default=str, ensure_ascii=False)
    return ConfigError(f"{place} = {text} is not allowed", where=file.where(key), fix=f"must be {allowed}")


def _allowed(detail: ErrorDetails) -> str:
    if detail["type"] == "string_pattern_mismatch":
        pattern = detail.get("ctx", {})["pattern"]
        return PATTERNS.get(pattern, f"text that matches {pattern}")
    if detail["type"] == "missing":
        return "a longer list"
    return requirement(detail["msg"])
