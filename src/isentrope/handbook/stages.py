"""Entries of the objective's stages, from their signatures and docstrings."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace

from pydantic import BaseModel

from isentrope.handbook.docstrings import class_docstrings, unwrapped
from isentrope.handbook.entry import HelpEntry, Sort
from isentrope.handbook.light import FOLDER, light_module
from isentrope.handbook.values import default_of, values_of
from isentrope.learner.objective.schema import Choice, Dimension, Form, Kind

DIMENSIONS = FOLDER / "dimensions.py"

_FORMS = {
    Form.ONE: "one stage",
    Form.BY_KIND: "any number of stages, each once; presets add theirs",
    Form.WHOLE: "any number of terms; a preset or a run file replaces all of them",
}


def stages() -> list[HelpEntry]:
    """Return every dimension, followed by its kinds, each with its keys."""
    table = light_module(DIMENSIONS)
    found = [*_choices()]
    for dimension in table["DIMENSIONS"].values():
        found += _of_dimension(dimension)
    found += _kinds("kl.tokens", table["KL_TOKENS"], single=True)
    return found


def split_docstring(text: str) -> tuple[str, dict[str, str]]:
    """Return a docstring without its section `Args:`, and that section as the text of each argument."""
    description, _, section = unwrapped(text).partition("\n\nArgs:")
    return description, _by_name(section)


def _by_name(text: str) -> dict[str, str]:
    """Return sentences of the form `name: text`, by name, and with a capital."""
    words = re.split(r"(?:^|(?<=\.))\s*\b([a-z_]+): ", text)
    return {name: meaning[0].upper() + meaning[1:] for name, meaning in zip(words[1::2], words[2::2], strict=True)}


def _of_dimension(dimension: Dimension) -> Iterator[HelpEntry]:
    module = next(iter(dimension.kinds.values())).function.__globals__["__doc__"]
    text = unwrapped(module).partition("\n\n")[0]
    keys: tuple[HelpEntry, ...] = ()
    if dimension.keys is not None:
        texts = class_docstrings(DIMENSIONS, dimension.keys.__qualname__)
        keys = tuple(_keys(dimension.path, dimension.keys, texts))
    yield HelpEntry(Sort.STAGE, dimension.path, text, dimension.path, _FORMS[dimension.form], dimension.default, keys)
    yield from _kinds(dimension.path, dimension.kinds, single=dimension.form is Form.ONE)


def _kinds(path: str, kinds: Mapping[str, Kind], *, single: bool) -> Iterator[HelpEntry]:
    for name, kind in kinds.items():
        text, arguments = split_docstring(kind.function.__doc__ or "")
        keys = tuple(
            replace(key, written=_written(path, single, f'kind = "{name}"', f"{key.name.rpartition('.')[2]} = …"))
            for key in _keys(f"{path}.{name}", kind.keys, arguments)
        )
        value = _written(path, single, f'kind = "{name}"')
        yield HelpEntry(Sort.STAGE, f"{path}.{name}", text, path, value, keys=keys)


def _written(path: str, single: bool, *settings: str) -> str:
    """Return the line of a run file that has these settings in a table of a dimension."""
    table = f"{{ {', '.join(settings)} }}"
    if path == "kl.tokens":
        return f"learner.objective.kl = [{{ …, tokens = {table} }}]"
    return f"learner.objective.{path} = {table if single else f'[{table}]'}"


def _keys(path: str, model: type[BaseModel], texts: Mapping[str, str]) -> Iterator[HelpEntry]:
    values = values_of(model)
    for name, field in model.model_fields.items():
        yield HelpEntry(Sort.KEY, f"{path}.{name}", texts.get(name, ""), path, values[name], default_of(field))


def _choices() -> Iterator[HelpEntry]:
    """Yield the keys that are one word."""
    choices: dict[str, Choice] = light_module(DIMENSIONS)["CHOICES"]
    for path, choice in choices.items():
        value = " or ".join(f'"{word}"' for word in choice.words)
        yield HelpEntry(Sort.KEY, path, choice.meaning, "learner.objective", value, f'"{choice.words[0]}"')
