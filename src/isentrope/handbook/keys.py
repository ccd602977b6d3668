"""Entries of the run file's keys, from the configuration's models and the docstrings below their fields."""

from collections.abc import Iterator

from pydantic import BaseModel

from isentrope.config import Config
from isentrope.handbook.docstrings import field_docstrings, unwrapped
from isentrope.handbook.entry import HelpEntry, Sort
from isentrope.handbook.values import default_of, values_of


def tables() -> dict[str, str]:
    """Return each table of the run file with what it is for."""
    return {path: _of_table(model) for path, model in _tables(Config, "")}


def run_file_keys() -> list[HelpEntry]:
    """Return every key of the run file, but for those of stages."""
    return [entry for path, model in _tables(Config, "") for entry in _keys(path, model)]


def _tables(model: type[BaseModel], path: str) -> Iterator[tuple[str, type[BaseModel]]]:
    for name, field in model.model_fields.items():
        if (below := _model(field.annotation)) is not None:
            yield f"{path}{name}", below
            yield from _tables(below, f"{path}{name}.")


def _keys(table: str, model: type[BaseModel]) -> Iterator[HelpEntry]:
    texts, values = field_docstrings(model), values_of(model)
    for name, field in model.model_fields.items():
        if _model(field.annotation) is None:
            path = f"{table}.{name}"
            yield HelpEntry(Sort.KEY, path, texts.get(name, ""), table, values[name], default_of(field))


def _model(annotation: object) -> type[BaseModel] | None:
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None


def _of_table(model: type[BaseModel]) -> str:
    return unwrapped(model.__doc__ or "").partition(": ")[2]
