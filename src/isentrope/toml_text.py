"""Values as TOML: the other direction of `tomllib`, for tables of a run."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

_BARE = re.compile(r"[A-Za-z0-9_-]+")


def leaves(table: Mapping[str, object], above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], object]]:
    """Yield the values of nested tables with the names on the way to them; an empty table is a value."""
    for name, value in table.items():
        if isinstance(value, Mapping) and value:
            yield from leaves(value, (*above, name))
        else:
            yield (*above, name), value


def toml_key(names: Iterable[str]) -> str:
    """Return a dotted key, with the names in quotes that need them."""
    return ".".join(name if _BARE.fullmatch(name) else _text(name) for name in names)


def toml_value(value: object) -> str:
    """Return a value on one line; None has no form in TOML."""
    match value:
        case bool():
            return str(value).lower()
        case str():
            return _text(value)
        case int() | float():
            return repr(value)
        case Mapping():
            return f"{{{', '.join(f'{toml_key([str(name)])} = {toml_value(each)}' for name, each in value.items())}}}"
        case Sequence():
            return f"[{', '.join(map(toml_value, value))}]"
        case _:
            raise TypeError(f"{value!r} has no form in TOML")


def _text(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007F")
