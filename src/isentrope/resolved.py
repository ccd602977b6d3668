"""A run's settings as its folder keeps them: `run.toml`, every key with its value and where that comes from, and
`objective.toml`, the presets merged into one objective.

Both are valid TOML, and `isentrope train` accepts `run.toml`: relative paths keep their meaning by `run.base_dir`.
"""

import os
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from isentrope import __version__
from isentrope.config import MADE_BY, MAY_CHANGE, PLACES, Config
from isentrope.rollout.wire.files import write_whole
from isentrope.runfile import RunFile
from isentrope.toml_text import leaves, toml_key, toml_value

RUN_FILE = "run.toml"
OBJECTIVE = "objective.toml"

LISTED = 4
"""Keys named in one message."""

_MARK = "  # "
_DEFAULT = "default"


@dataclass(frozen=True, slots=True)
class ResolvedRun:
    """The text of both files."""

    run: str
    objective: str

    def write(self, folder: Path) -> None:
        """Write both files into the run's folder."""
        write_whole(folder / RUN_FILE, self.run, durable=False)
        write_whole(folder / OBJECTIVE, self.objective, durable=False)

    def changes(self, folder: Path) -> list[str]:
        """Return what differs from the settings kept in a folder, of what a run may not change, a key in each line; no
        lines if the folder keeps none that can be read."""
        changed = list(_changes(_read(folder / RUN_FILE), tomllib.loads(self.run), _is_fixed))
        if not changed:  # a preset or a method's file is not what it was
            changed = list(_changes(_read(folder / OBJECTIVE), tomllib.loads(self.objective), _is_fixed))
        return _first(changed)

    def other_groups(self, folder: Path) -> list[str]:
        """Return what differs from the settings kept in a folder, of what decides which groups a run makes, a key in
        each line; no lines if the folder keeps none that can be read."""
        return _first(list(_changes(_read(folder / RUN_FILE), tomllib.loads(self.run), _decides_groups)))


def resolve(config: Config, file: RunFile, folder: Path) -> ResolvedRun:
    """Return the settings of a run in `folder`. Loads torch, because the objective is composed."""
    from isentrope import methods
    from isentrope.learner.objective.presets import build, load_objective
    from isentrope.learner.objective.run import suggested_by

    merged = load_objective(config.learner.method, config.learner.objective, file.folder)
    objective = build(merged, file.folder, max_new_tokens=config.sampling.max_new_tokens)
    sources = {key: f"suggested by {method}" for key, method in suggested_by(merged).items()}
    sources |= _places(file, folder)
    sources |= {"run.output_dir": "this folder", "run.base_dir": f"folder of {file.path.name}"}
    values = config.model_dump(mode="json")
    values["run"] |= {"output_dir": ".", "base_dir": _base_dir(file.folder, folder)}
    head = f"# Run {config.run.name!r} by isentrope {__version__}: every key, its value, and where that comes from."
    lines = [head, f"# `isentrope train {RUN_FILE}` continues it. Relative paths start at run.base_dir."]
    for table, keys in values.items():
        lines += ["", f"[{table}]", *_lines(table, keys, sources)]
    note = f"# The objective of run {config.run.name!r}: every key, its value, and the preset that set it."
    return ResolvedRun("\n".join(lines) + "\n", "\n".join([note, *methods.tables(merged, objective)]) + "\n")


def _lines(table: str, keys: Mapping[str, object], sources: Mapping[str, str]) -> Iterator[str]:
    for names, value in leaves(keys):
        key, source = toml_key(names), sources.get(".".join((table, *names)), _DEFAULT)
        yield f"# {key} is not set" if value is None else f"{key} = {toml_value(value)}{_MARK}{source}"


def _places(file: RunFile, folder: Path) -> dict[str, str]:
    """Return the source of each key that the run file or the command line sets; what the folder's own file sets has the
    source that stands there."""
    if file.path != folder / RUN_FILE:
        return dict(file.lines)
    places = dict(file.lines)
    written = file.path.read_text(encoding="utf-8").split("\n")
    for key, place in file.lines.items():
        number = place.rpartition(":")[2]
        _, mark, source = written[int(number) - 1].rpartition(_MARK) if number.isdecimal() else ("", "", "")
        if mark:
            places[key] = source
    return places


def _base_dir(base: Path, folder: Path) -> str:
    """Return a folder as `run.base_dir`: relative if the run lies in it, so that both may be moved together."""
    return os.path.relpath(base, folder) if folder.is_relative_to(base) else str(base)


def _read(path: Path) -> dict[str, object] | None:
    """Return a file's tables; None if there is no such file, or it is not TOML."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError):
        return None


def _first(lines: list[str]) -> list[str]:
    more = [f"and {len(lines) - LISTED} more"] if len(lines) > LISTED else []
    return lines[:LISTED] + more


def _is_fixed(names: tuple[str, ...]) -> bool:
    """Return True for a key that another start of a run may not change."""
    return not {".".join(names[:2]), names[0]} & set(MAY_CHANGE)


def _decides_groups(names: tuple[str, ...]) -> bool:
    """Return True for a key that decides which groups a run makes."""
    key = {".".join(names[:2]), names[0]}
    return bool(key & set(MADE_BY)) and not key & set(PLACES) and _is_fixed(names)


def _changes(
    before: Mapping[str, object] | None, after: Mapping[str, object], counts: Callable[[tuple[str, ...]], bool]
) -> Iterator[str]:
    if before is None:
        return
    old, new = dict(leaves(before)), dict(leaves(after))
    for names in sorted(old.keys() | new.keys()):
        if old.get(names) != new.get(names) and counts(names):
            yield f"{toml_key(names)} was {_shown(old, names)} and is {_shown(new, names)}"


def _shown(values: Mapping[tuple[str, ...], object], names: tuple[str, ...]) -> str:
    return toml_value(values[names]) if names in values else "not set"
