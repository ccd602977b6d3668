"""Keys on which methods would differ unless they are pinned: each gets one value with which every method can run.

A preset suggests values for a few keys that a run file leaves open, so two methods would also differ in their batches,
ages or groups. What most methods want is taken first, and of what as many want, what the first-named one does.
"""

import itertools
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from isentrope.check.supplies import lacking
from isentrope.config import accept
from isentrope.errors import ConfigError, IsentropeError
from isentrope.learner.objective.run import Opened, open_objective, refusals, suggested_by
from isentrope.runfile import RunFile, overridden, raise_all
from isentrope.toml_text import toml_value

MAX_TRIES = 64
"""Combinations of values that are tried."""

WHOLE = "sampling.min_group"


@dataclass(frozen=True, slots=True)
class Method:
    """One method of a comparison: one preset, or several merged from left to right."""

    presets: tuple[str, ...]

    @property
    def name(self) -> str:
        """Its name as it was given."""
        return "+".join(self.presets)

    @property
    def override(self) -> str:
        """Change of the run file that makes a run use it."""
        return f"learner.method={toml_value(list(self.presets))}"


@dataclass(frozen=True, slots=True)
class Pin:
    """A key that all runs have alike. wanted: the value that each method would have had."""

    key: str
    value: float
    wanted: Mapping[str, float]

    @property
    def override(self) -> str:
        """Change of the run file that pins it."""
        return f"{self.key}={toml_value(self.value)}"

    @property
    def sentence(self) -> str:
        """The pinned value and its reason."""
        by_value: dict[float, list[str]] = {}
        for method, value in self.wanted.items():
            by_value.setdefault(value, []).append(method)
        told = "; ".join(f"{', '.join(methods)}: {value:g}" for value, methods in by_value.items())
        return f"pinned: {self.key} = {self.value:g} for all (alone, they would have had {told})"


def pins(file: RunFile, methods: Sequence[Method]) -> tuple[Pin, ...]:
    """Return the keys to pin, so that runs of a run file differ in their method alone. Loads torch.

    Raises:
        ConfigError: a method is not known or cannot run with this run file, or there are no values with which all can;
            several as an ExceptionGroup.
    """
    alone = {method.name: _opened(file, method, ()) for method in methods}
    wanted = _wanted(alone)
    tries: list[list[Exception]] = []
    for values in itertools.islice(_combinations(wanted), MAX_TRIES):
        found = tuple(Pin(key, value, wanted[key]) for key, value in values.items())
        opened, errors = _tried(file, methods, found)
        if not errors:
            return (*found, *_whole_groups(opened))
        tries.append(errors)
    raise_all([error for method in methods for error in _refused(alone[method.name], method)])
    raise_all([_of_all(error, wanted) for error in tries[0]])
    raise AssertionError("one try at least has failed")


def _tried(file: RunFile, methods: Sequence[Method], found: Sequence[Pin]) -> tuple[dict[str, Opened], list[Exception]]:
    """Return the objectives of all methods with keys pinned, and the reasons against that."""
    opened: dict[str, Opened] = {}
    errors: list[Exception] = []
    for method in methods:
        try:
            opened[method.name] = _opened(file, method, found)
            errors += _refused(opened[method.name], method)
        except IsentropeError as error:
            errors.append(error)
        except ExceptionGroup as group:
            errors += group.exceptions
    return opened, errors


def _opened(file: RunFile, method: Method, found: Sequence[Pin]) -> Opened:
    """Return a method's objective for the run file with keys pinned; errors have the method's name."""
    try:
        config, changed = accept(overridden(file, [method.override, *(pin.override for pin in found)]))
        return open_objective(
            config.learner,
            config.sampling,
            run_folder=changed.folder,
            evaluates=bool(config.data.eval_sets),
            lacks=lacking(config),
        )
    except (IsentropeError, ExceptionGroup) as error:
        raise_all([_named(each, method) for each in getattr(error, "exceptions", (error,))])
        raise


def _refused(opened: Opened, method: Method) -> list[Exception]:
    return [_named(error, method) for error in refusals(opened)]


def _named(error: Exception, method: Method) -> Exception:
    """Return an error that names the method it is about."""
    if not isinstance(error, IsentropeError):
        return error
    return type(error)(f"method {method.name}: {error.what}", where=error.where, fix=error.fix)


def _of_all(error: Exception, wanted: Mapping[str, object]) -> Exception:
    """Return an error that says why no values of the keys suit all methods."""
    if not isinstance(error, IsentropeError) or not wanted:
        return error
    what = f"no values of {', '.join(wanted)} suit all methods: {error.what}"
    return ConfigError(what, where=error.where, fix=f"leave a method out, or set these keys; {error.fix}")


def _wanted(alone: Mapping[str, Opened]) -> dict[str, dict[str, float]]:
    """Return the keys in which methods differ by what presets suggest, with the value that each method has."""
    places = {place for opened in alone.values() for place in suggested_by(opened.merged)}
    values = {place: {name: _value(opened, place) for name, opened in alone.items()} for place in sorted(places)}
    return {place: by_method for place, by_method in values.items() if len(set(by_method.values())) > 1}


def _value(opened: Opened, place: str) -> float:
    value: object = opened
    for name in place.split("."):
        value = getattr(value, name)
    assert isinstance(value, int | float)
    return value


def _combinations(wanted: Mapping[str, Mapping[str, float]]) -> Iterator[dict[str, float]]:
    """Yield the values of all keys, those first that most methods have."""
    votes = {key: Counter(by_method.values()).most_common() for key, by_method in wanted.items()}
    every = itertools.product(*([(value, count) for value, count in found] for found in votes.values()))
    limited = itertools.islice(every, MAX_TRIES * MAX_TRIES)
    for chosen in sorted(limited, key=lambda pairs: -math.prod(count for _, count in pairs)):
        yield dict(zip(votes, (value for value, _ in chosen), strict=True))


def _whole_groups(opened: Mapping[str, Opened]) -> Iterator[Pin]:
    """Yield the smallest group for all, if some methods train whole groups alone."""
    wanted = {name: each.sampling.min_group for name, each in opened.items()}
    if len(set(wanted.values())) > 1:
        yield Pin(WHOLE, max(wanted.values()), wanted)
