"""Entries of what a run writes into its folder, from the records of its files and the docstrings below their fields."""

from collections.abc import Iterator
from types import UnionType
from typing import get_args, get_origin

from isentrope.handbook.docstrings import field_docstrings, unwrapped
from isentrope.handbook.entry import HelpEntry, Sort
from isentrope.handbook.values import UNSET, values_of
from isentrope.learner.json_files import JsonRecord
from isentrope.learner.records import FILES


def files() -> dict[str, str]:
    """Return each file of a run's folder that has keys, with what it is and who writes it."""
    return {kind.FILE: unwrapped(kind.__doc__ or "") for kind in FILES}


def outputs() -> list[HelpEntry]:
    """Return every key of those files; keys of nested tables have the table's name before them."""
    return [entry for kind in FILES for entry in _keys(kind.FILE, "", kind)]


def _keys(file: str, path: str, record: type[JsonRecord]) -> Iterator[HelpEntry]:
    texts, values = field_docstrings(record), values_of(record)
    for name, field in record.model_fields.items():
        below = [each for each in _types(field.annotation) if issubclass(each, JsonRecord)]
        if not below:
            value = values[name].replace(UNSET, "null" if field.is_required() else "absent")
            yield HelpEntry(Sort.OUTPUT, path + name, texts.get(name, ""), file, value)
        for each in below:
            yield from _keys(file, f"{path}{name}.", each)
        for each in _held(field.annotation):
            yield from _keys(file, f"{path}{name}.*.", each)
    for pattern, text in record.PATTERNS.items():
        yield HelpEntry(Sort.OUTPUT, path + pattern, text, file, "number")


def _held(annotation: object) -> list[type[JsonRecord]]:
    """Return the record that each entry of a table is, if it is one."""
    if get_origin(annotation) is not dict:
        return []
    return [each for each in get_args(annotation) if isinstance(each, type) and issubclass(each, JsonRecord)]


def _types(annotation: object) -> list[type]:
    each = get_args(annotation) if isinstance(annotation, UnionType) else (annotation,)
    return [one for one in each if isinstance(one, type)]
