"""The dimensions of an objective and the kinds each may take, as records.

A stage is a pure module-level function. Its positional parameters are tensors, called by the names of `batch.Batch` and
of `objective.Objective`; they say what the stage needs. One with the default None is read where the batch has it, and
needed only if a key has its name as value. Its keyword-only parameters are the configuration keys of its kind, with
their types, bounds and defaults. So a kind is declared once, by its signature, and a function of the user's own
(`kind = "my_module:my_function"`) is equal to a built-in one.
"""

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Annotated, Any, Literal, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from isentrope.errors import ConfigError, nearest, requirement
from isentrope.rollout.units import MAX_NUMBER, Bound, Factor, Limits

Function = Callable[..., Any]
Table = Mapping[str, object]
Locate = Callable[[str], str]
"""Function from a key to the place that set it, for messages."""

Positive = Annotated[float, Field(gt=0, le=MAX_NUMBER, allow_inf_nan=False)]
NonNegative = Bound
Finite = Factor
Share = Annotated[float, Field(gt=0, le=1)]
Fraction = Annotated[float, Limits(0, 1)]
Count = Annotated[int, Limits(1, 1 << 40)]
Whole = Annotated[int, Limits(0, 1 << 20)]
Line = tuple[NonNegative, NonNegative]
"""Value at the start of a run and at its end, between which it is a line over progress."""

Target = NonNegative | Line | Annotated[dict[Literal["initial"], NonNegative | Line], Field(min_length=1)]
"""Set point of a controller: a number, a line over progress, or a share of the initial measurement."""


class Form(Enum):
    """Form in which the tables of a dimension are written and merged."""

    ONE = "one table"
    BY_KIND = "a list, merged by kind"
    WHOLE = "a list, replaced as a whole"


@dataclass(frozen=True, slots=True)
class Kind:
    """One way to fill a dimension: a function, the tensors it reads and the model of its keyword parameters."""

    name: str
    function: Function
    reads: tuple[str, ...]
    keys: type[BaseModel]
    may_read: tuple[str, ...] = ()
    """Tensors that it can do without, unless a key of the stage names them."""


@dataclass(frozen=True, slots=True)
class Stage:
    """A kind with the values of its keys."""

    kind: Kind
    params: Mapping[str, Any]

    def __call__(self, scope: Mapping[str, Any]) -> Any:
        """Call the function on the tensors it reads from `scope`."""
        tensors = {name: scope[name] for name in self.kind.reads}
        tensors |= {name: scope[name] for name in self.kind.may_read if name in scope}
        return self.kind.function(**tensors, **self.params)

    @property
    def needed(self) -> tuple[str, ...]:
        """Tensors that it cannot do without, with the keys it has."""
        return (*self.kind.reads, *(name for name in self.kind.may_read if name in self.params.values()))

    def runs(self, *functions: Function) -> bool:
        """Return whether the stage computes one of `functions`, whatever its kind is called."""
        return self.kind.function in functions


@dataclass(frozen=True, slots=True)
class Choice:
    """A key that is one word. words: those it may be, the first if it is unset."""

    words: tuple[str, ...]
    meaning: str


@dataclass(frozen=True, slots=True)
class Dimension:
    """A place in the objective that takes one stage, or several.

    path: its key below `[learner.objective]`. default: the kind of a `ONE` dimension that no table sets.
    keys: keys of every table of the dimension, besides those of its kind.
    """

    path: str
    form: Form
    kinds: Mapping[str, Kind]
    default: str = ""
    keys: type[BaseModel] | None = None


def kind_of(name: str, function: Function) -> Kind:
    """Return the kind that `function` declares by its signature."""
    hints = get_type_hints(function, include_extras=True)
    reads: list[str] = []
    may_read: list[str] = []
    fields: dict[str, Any] = {}
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY:
            default = ... if parameter.default is inspect.Parameter.empty else parameter.default
            fields[parameter.name] = (hints.get(parameter.name, Any), default)
        elif parameter.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD:
            (reads if parameter.default is inspect.Parameter.empty else may_read).append(parameter.name)
        else:
            raise ConfigError(
                f"{name}: a stage takes named parameters only, not {parameter}",
                fix="tensors before `*`, configuration keys after it",
            )
    config = ConfigDict(frozen=True, extra="forbid", strict=False)
    keys: type[BaseModel] = create_model(name, __config__=config, **fields)
    return Kind(name, function, tuple(reads), keys, tuple(may_read))


def kinds(**functions: Function) -> dict[str, Kind]:
    """Return kinds by name."""
    return {name: kind_of(name, function) for name, function in functions.items()}


def parse_keys(
    model: type[BaseModel], table: Table, locate: Locate, of: str = "", also: Iterable[str] = ()
) -> dict[str, Any]:
    """Return `table` as values of `model`, with defaults.

    ConfigError names the key, where it was set (`locate`), what it is a key `of`, and the nearest allowed one; `also`
    are keys that may stand in the same table, but are not for `model`.
    """
    try:
        parsed = model.model_validate(dict(table))
    except ValidationError as error:
        first = error.errors()[0]
        key, given = _place(table, first["loc"])
        if first["type"] == "extra_forbidden":
            raise unknown("key", key, {*model.model_fields, *also}, locate(key), of) from None
        if first["type"] == "missing":
            raise ConfigError(f"`{key}`{of} has no default", where=locate(key), fix="set it") from None
        about = [each for each in error.errors() if _place(table, each["loc"])[0] == key]
        allowed = dict.fromkeys(requirement(each["msg"]) for each in about)
        raise ConfigError(
            f"`{key}`{of} is {given!r}", where=locate(key), fix=f"must be {' or '.join(allowed)}"
        ) from None
    return {name: getattr(parsed, name) for name in model.model_fields}


def _place(table: Table, steps: Iterable[int | str]) -> tuple[str, object]:
    """Return the dotted key that pydantic's steps lead to, without those for the branches of a union, and its value;
    the last step may be a key that is missing."""
    key: list[str] = []
    value: object = table
    for step in steps:
        if isinstance(value, Mapping):
            key.append(str(step))
            value = value.get(str(step))
    return ".".join(key), value


def unknown(what: str, given: str, allowed: Iterable[str], where: str, of: str = "") -> ConfigError:
    """Return the error for a name that does not exist, with the nearest that does."""
    names = sorted(allowed)
    if close := nearest(given, names):
        fix = f"did you mean `{close}`?"
    elif names:
        fix = f"allowed: {', '.join(names)}"
    else:
        fix = f"there is no {what}{of}"
    return ConfigError(f"unknown {what} `{given}`{of}", where=where, fix=fix)
