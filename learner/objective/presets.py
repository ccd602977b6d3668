"""Presets: from presets and a run's own keys to one objective, with the source of every key.

A preset is a TOML file: `learner/methods/<name>.toml`, or any path. Presets merge from left to right, then the run's
own keys: tables key by key (another `kind` starts its table afresh), lists by `kind`, except `kl`, which is replaced as
a whole. An empty list clears, and so does the word "none", behind which a list can start afresh.
"""

import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from isentrope.errors import ConfigError, RewardError
from isentrope.learner.objective.dimensions import CHOICES, DIMENSIONS, KL_TOKENS, READABLE, KlKeys
from isentrope.learner.objective.objective import KlTerm, Objective
from isentrope.learner.objective.schema import Form, Kind, Locate, Stage, Table, kind_of, parse_keys, unknown
from isentrope.rollout.rewards.loading import load_function
from isentrope.rollout.units import BatchesOrNone, Passes, Responses, Temperature, Updates

FOLDER = Path(__file__).resolve().parent.parent / "methods"
OWN = "run file"
CLEARED = "none"
"""Word that clears a list."""
DEFAULT = "default"


class Suggested(BaseModel):
    """Run keys that a preset suggests; they apply only where the run does not set them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    updates_per_batch: Updates | None = None
    epochs: Passes | None = None
    group_size: Responses | None = None
    temperature: Temperature | None = None
    max_lag: BatchesOrNone | None = None


class Preset(BaseModel):
    """One file of `learner/methods`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = ""
    """The method's own name."""
    paper: str = ""
    """Link; several are separated by spaces."""
    family: str = ""
    """Heading that it is listed under, by a word; see `isentrope methods`."""
    year: int = 0
    """Year of the first version of the paper."""
    differs: str = ""
    """One sentence: the difference from similar methods."""
    acts: str = ""
    """One sentence: when that makes a difference."""
    suggest: Suggested = Suggested()
    objective: dict[str, Any] = {}


@dataclass(frozen=True, slots=True)
class Merged:
    """Merged tables. choices: of `dimensions.CHOICES`. tables: by dimension path, each with its `kind`; a list for
    dimensions that take several. provenance: key path -> preset or "run file". suggested: run key -> (value, preset).
    replaced: the stages of one preset that a later one replaced. overridden: key path -> (former value, its source)."""

    methods: tuple[str, ...]
    choices: Mapping[str, str]
    tables: Mapping[str, Table | tuple[Table, ...]]
    provenance: Mapping[str, str]
    suggested: Mapping[str, tuple[float, str]]
    replaced: tuple[str, ...]
    overridden: Mapping[str, tuple[object, str]]

    def sources(self, path: str) -> set[str]:
        """Return the sources that set the key or one below it; empty if all of it is by default."""
        below = f"{path}."
        return {source for key, source in self.provenance.items() if key == path or key.startswith(below)}

    def place(self, path: str) -> str:
        """Return a key path for messages, with the presets that set it; a run's own keys have no source."""
        found = self.sources(path) - {OWN}
        return f"learner.objective.{path}" + (f" (set by {', '.join(sorted(found))})" if found else "")

    def plain(self) -> dict[str, Any]:
        """Return the objective as plain values, presets resolved: the input of a run's digest."""
        return dict(self.choices) | {
            path: [dict(entry) for entry in table] if isinstance(table, tuple) else dict(table)
            for path, table in self.tables.items()
        }


def method_names() -> list[str]:
    """Return the names of the presets in the package."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def read_preset(method: str, run_folder: Path) -> Preset:
    """Read the preset of a name, or of a path to a TOML file relative to the run file's folder."""
    own = method.endswith(".toml")
    path = run_folder / method if own else FOLDER / f"{method}.toml"
    if not path.is_file():
        if own:
            raise ConfigError(
                f"no method file {path}", where="learner.method", fix="give a path relative to the run file"
            )
        raise unknown("method", method, method_names(), "learner.method")
    text = path.read_text(encoding="utf-8")
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"not TOML: {error}", where=str(path), fix="see https://toml.io") from None
    return Preset(**parse_keys(Preset, table, lambda key: f"{path}, {key}"))


def load_objective(method: str | Sequence[str], own: Table, run_folder: Path) -> Merged:
    """Merge the presets of `method` and the run's own keys (`[learner.objective]`), checked key by key."""
    methods = (method,) if isinstance(method, str) else tuple(method)
    merging = _Merging()
    for name in methods:
        preset = read_preset(name, run_folder)
        where = name if name.endswith(".toml") else f"learner/methods/{name}.toml"
        merging.add(preset.objective, source=name, where=f"{where}: objective")
        for key, value in preset.suggest.model_dump(exclude_none=True).items():
            merging.suggested[key] = (value, name)
    merging.add(own, source=OWN, where="learner.objective")
    return Merged(
        methods=methods,
        choices=merging.choices,
        tables={path: tuple(t) if isinstance(t, list) else t for path, t in merging.tables.items()},
        provenance=merging.provenance,
        suggested=merging.suggested,
        replaced=tuple(merging.replaced),
        overridden=merging.overridden,
    )


def own_functions(merged: Merged) -> Iterator[str]:
    """Yield the user's own stages, by `module:function`."""
    for table in merged.tables.values():
        for each in (table,) if isinstance(table, Mapping) else table:
            if ":" in (kind := str(each["kind"])):
                yield kind


def build(merged: Merged, run_folder: Path, *, max_new_tokens: int) -> Objective:
    """Build the objective of merged tables. A value "max_new_tokens" stands for the run's longest response."""
    maker = _Maker(merged, run_folder, max_new_tokens)
    return Objective(
        stats=merged.choices["stats"],
        routing=merged.choices["ratio.routing"],
        sampling_mask=merged.choices["ratio.sampling_mask"],
        filter=maker.several("filter"),
        reward=maker.several("reward"),
        baseline=maker.one("advantage.baseline"),
        scale=maker.one("advantage.scale"),
        modulation=maker.several("modulation"),
        tokens=maker.several("tokens"),
        responses=maker.several("responses"),
        correction=maker.several("correction"),
        anchor=maker.one("ratio.anchor"),
        level=maker.one("ratio.level"),
        clip=maker.one("clip"),
        kl=maker.kl_terms(),
        entropy=maker.one("entropy"),
        aux=maker.several("aux"),
        reduce=maker.one("reduce"),
        control=maker.several("control"),
        reset=maker.one("reset"),
        critic=maker.one("critic"),
    )


class _Merging:
    """Tables while they are merged."""

    def __init__(self) -> None:
        self.choices = {path: choice.words[0] for path, choice in CHOICES.items()}
        self.tables: dict[str, dict[str, object] | list[dict[str, object]]] = {
            path: {"kind": dimension.default} if dimension.form is Form.ONE else []
            for path, dimension in DIMENSIONS.items()
        }
        self.provenance: dict[str, str] = {}
        self.suggested: dict[str, tuple[float, str]] = {}
        self.replaced: list[str] = []
        self.overridden: dict[str, tuple[object, str]] = {}

    def add(self, tables: Table, *, source: str, where: str) -> None:
        for path, value in _by_path(tables, where):
            at = f"{where}.{path}"
            if path in CHOICES:
                if value not in CHOICES[path].words:
                    raise unknown("value", str(value), CHOICES[path].words, at)
                self.choices[path] = str(value)
                self.provenance[path] = source
                continue
            match DIMENSIONS[path].form:
                case Form.ONE:
                    self._one(path, _as_table(value, at), source)
                case Form.BY_KIND:
                    self._by_kind(path, as_list(value, at), source)
                case Form.WHOLE:
                    self._whole(path, as_list(value, at), source)

    def _one(self, path: str, table: dict[str, object], source: str) -> None:
        present = self.tables[path]
        assert isinstance(present, dict)
        if table.get("kind", present["kind"]) != present["kind"]:
            self._forget(path, source)
            present = {}
        self._note_overridden(path, present, table)
        self.tables[path] = present | table
        self.provenance |= {f"{path}.{key}": source for key in table}

    def _by_kind(self, path: str, tables: list[dict[str, object]], source: str) -> None:
        for table in tables or [{"kind": CLEARED}]:
            if table["kind"] == CLEARED:
                self._whole(path, [], source)
                continue
            present = self.tables[path]
            assert isinstance(present, list)
            for place, known in enumerate(present):
                if known["kind"] == table["kind"]:
                    self._note_overridden(f"{path}.{table['kind']}", known, table)
                    present[place] = known | table
                    break
            else:
                present.append(table)
            self.provenance |= {f"{path}.{table['kind']}.{key}": source for key in table}

    def _note_overridden(self, path: str, present: Table, table: Table) -> None:
        """Keep the values that `table` is about to replace, with their sources."""
        for key in table.keys() & present.keys():
            if present[key] != table[key] and (former := self.provenance.get(f"{path}.{key}")):
                self.overridden[f"{path}.{key}"] = (present[key], former)

    def _whole(self, path: str, tables: list[dict[str, object]], source: str) -> None:
        tables = [table for table in tables if table["kind"] != CLEARED]
        self._forget(path, source)
        self.tables[path] = tables
        self.provenance[path] = source
        for place, table in enumerate(tables):
            for key, value in table.items():
                inner = [f".{name}" for name in value] if isinstance(value, Mapping) else [""]
                self.provenance |= {f"{path}.{place}.{key}{name}": source for name in inner}

    def _forget(self, path: str, source: str) -> None:
        """Drop the settings of `path`, because `source` sets it again."""
        below = f"{path}."
        gone = {key: by for key, by in self.provenance.items() if key == path or key.startswith(below)}
        for key in gone:
            del self.provenance[key]
            self.overridden.pop(key, None)
        for former in sorted(set(gone.values())):
            if self.tables[path] and source != OWN:  # a run file replaces on purpose
                self.replaced.append(f"{path}: {source} replaces what {former} set")


class _Maker:
    """Builder of stages from merged tables."""

    def __init__(self, merged: Merged, run_folder: Path, max_new_tokens: int) -> None:
        self._merged = merged
        self._run_folder = run_folder
        self._max_new_tokens = max_new_tokens

    def one(self, path: str) -> Stage:
        table = self._merged.tables[path]
        assert isinstance(table, Mapping)
        return self._stage(DIMENSIONS[path].kinds, table, path)

    def several(self, path: str) -> tuple[Stage, ...]:
        """Return stages in the order of the kinds, then the user's own in their order."""
        dimension = DIMENSIONS[path]
        stages = [self._stage(dimension.kinds, table, f"{path}.{table['kind']}") for table in self._tables(path)]
        known = [kind.function for kind in dimension.kinds.values()]
        stages.sort(key=lambda stage: known.index(stage.kind.function) if stage.runs(*known) else len(known))
        return tuple(stages)

    def kl_terms(self) -> tuple[KlTerm, ...]:
        terms = []
        for place, table in enumerate(self._tables("kl")):
            path = f"kl.{place}"
            shared = {key: value for key, value in table.items() if key in KlKeys.model_fields}
            rest = {key: value for key, value in table.items() if key not in shared}
            keys = KlKeys(**parse_keys(KlKeys, shared, self._locate(path), " of a KL term"))
            chosen = None
            if keys.tokens != "all":
                chosen = self._stage(KL_TOKENS, _as_table(keys.tokens, self._locate(path)("tokens")), f"{path}.tokens")
            estimator = self._stage(DIMENSIONS["kl"].kinds, rest, path, KlKeys.model_fields)
            terms.append(KlTerm(estimator, keys, chosen))
        return tuple(terms)

    def _tables(self, path: str) -> tuple[Table, ...]:
        tables = self._merged.tables[path]
        assert isinstance(tables, tuple)
        return tables

    def _stage(self, kinds: Mapping[str, Kind], table: Table, path: str, also: Iterable[str] = ()) -> Stage:
        name = str(table["kind"])
        locate = self._locate(path)
        if name in kinds:
            kind = kinds[name]
        elif ":" in name:
            kind = _own_kind(name, self._run_folder, path, locate("kind"))
        else:
            raise unknown("kind", name, kinds, locate("kind"))
        given = {
            key: self._max_new_tokens if value == "max_new_tokens" else value
            for key, value in table.items()
            if key != "kind"
        }
        setter = self._merged.provenance.get(f"{path}.kind", OWN)
        of = f" of kind `{name}`" + ("" if setter == OWN else f" (set by {setter})")
        return Stage(kind, parse_keys(kind.keys, given, locate, of, also))

    def _locate(self, path: str) -> Locate:
        return lambda key: self._merged.place(f"{path}.{key}")


def _by_path(tables: Table, where: str) -> Iterator[tuple[str, object]]:
    """Yield dimension paths with their tables; one of several parts (`advantage.baseline`) is a table of them."""
    paths = {*DIMENSIONS, *CHOICES}
    compound = {path.partition(".")[0] for path in paths if "." in path}
    for name, value in tables.items():
        if name in compound:
            for part, inner in _as_mapping(value, f"{where}.{name}").items():
                path = f"{name}.{part}"
                if path not in paths:
                    parts = [known.partition(".")[2] for known in paths if known.startswith(f"{name}.")]
                    raise unknown("key", part, parts, f"{where}.{path}")
                yield path, inner
        elif name in paths:
            yield name, value
        else:
            raise unknown("dimension", name, {path.partition(".")[0] for path in paths}, f"{where}.{name}")


def _as_mapping(value: object, where: str) -> dict[str, object]:
    if not isinstance(value, Mapping):
        raise ConfigError(f"{value!r} is not a table", where=where, fix='write { kind = "...", ... }')
    return dict(value)


def _as_table(value: object, where: str) -> dict[str, object]:
    """Return a table; a word stands for the kind of that name with its defaults."""
    return {"kind": value} if isinstance(value, str) else _as_mapping(value, where)


def as_list(value: object, where: str) -> list[dict[str, object]]:
    """Return tables with a `kind` each, given as a list, as one word or table, or as a table of tables by kind."""
    if isinstance(value, str) or (isinstance(value, Mapping) and "kind" in value):
        value = [value]
    elif isinstance(value, Mapping):
        value = [{"kind": kind} | _as_mapping(keys, f"{where}.{kind}") for kind, keys in value.items()]
    if not isinstance(value, list | tuple):
        raise ConfigError(f"{value!r} is not a list of tables", where=where, fix='write [{ kind = "...", ... }]')
    tables = [_as_table(entry, where) for entry in value]
    for table in tables:
        if "kind" not in table:
            raise ConfigError("a table of this list has no `kind`", where=where, fix='write { kind = "...", ... }')
    return tables


def _own_kind(name: str, run_folder: Path, path: str, where: str) -> Kind:
    """Return the kind of a user's own function for the dimension at `path`."""
    try:
        function = load_function(name, run_folder)
    except RewardError as error:
        raise ConfigError(error.what, where=f"{where}; {error.where}", fix=error.fix) from None
    kind = kind_of(name, function)
    readable = next(READABLE[known] for known in sorted(READABLE, reverse=True) if _is_at(path, known))
    for read in (*kind.reads, *kind.may_read):
        if read not in readable:
            raise unknown("tensor", read, readable, where, f" in the parameters of {name}")
    if path.startswith("control.") and not {"of", "initial"} <= set(kind.keys.model_fields):
        raise ConfigError(
            f"{name} lacks the keyword parameters `of` and `initial` of a controller",
            where=where,
            fix="write def f(..., *, of, initial, ...)",
        )
    return kind


def _is_at(path: str, dimension: str) -> bool:
    """Return True if the place of a stage, such as `tokens.top_entropy` or `kl.0.tokens`, belongs to a dimension."""
    if dimension == "kl.tokens":
        return path.startswith("kl.") and path.endswith(".tokens")
    return path == dimension or path.startswith(f"{dimension}.")
