"""Values for a problem of another size, by dimension and kind, whichever preset chose the kind.

Keys that the run file sets itself are left alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from isentrope.learner.objective.dimensions import DIMENSIONS
from isentrope.learner.objective.presets import OWN, Merged, as_list, load_objective
from isentrope.learner.objective.schema import Form, Table

KL_TOKENS = "kl.tokens"


class Adjustment(BaseModel):
    """Changes where a kind is used. at: dimension and kind, such as `tokens.top_entropy`; run: keys of `[learner]`;
    only_set: changes the keys that a preset sets alone."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    at: Annotated[str, Field(pattern=r"^[a-z_.]+\.[a-z_0-9]+$")]
    keys: dict[str, Any] = {}
    run: dict[str, Any] = {}
    only_set: bool = False
    why: str


@dataclass(frozen=True, slots=True)
class Adjusted:
    """objective: own tables to put over the presets. run: keys of `[learner]`. lines: the changes and their reasons."""

    objective: dict[str, Any]
    run: dict[str, Any]
    lines: tuple[str, ...]


def adjust(method: str | list[str], own: Table, adjustments: list[Adjustment], run_folder: Path) -> Adjusted:
    """Return the own tables `own` with every adjustment whose kind the merged objective uses."""
    merged = load_objective(method, own, run_folder)
    tables: dict[str, Any] = dict(own)
    run: dict[str, Any] = {}
    lines: list[str] = []
    for adjustment in adjustments:
        path, _, kind = adjustment.at.rpartition(".")
        if not _uses(merged, path, kind):
            continue
        sources = {key: _source(merged, path, kind, key) for key in adjustment.keys}
        taken = (OWN, None) if adjustment.only_set else (OWN,)
        free = {key: value for key, value in adjustment.keys.items() if sources[key] not in taken}
        if free:
            _put(tables, merged, path, kind, free)
        run |= adjustment.run
        changed = ", ".join([*_assignments(free), *_assignments(adjustment.run)])
        if changed:
            lines.append(f"{adjustment.at}: {changed}; {adjustment.why}")
    return Adjusted(tables, run, tuple(lines))


def _assignments(table: Table, before: str = "") -> list[str]:
    """Return `table` as it would be written in a run file."""
    lines: list[str] = []
    for key, value in table.items():
        lines += _assignments(value, f"{before}{key}.") if isinstance(value, Mapping) else [f"{before}{key} = {value}"]
    return lines


def _uses(merged: Merged, path: str, kind: str) -> bool:
    if path == KL_TOKENS:
        return any(_token_kind(term) == kind for term in _several(merged, "kl"))
    table = merged.tables[path]
    return table["kind"] == kind if isinstance(table, Mapping) else any(entry["kind"] == kind for entry in table)


def _source(merged: Merged, path: str, kind: str, key: str) -> str | None:
    """Return what set a key of a kind: a preset, or the run file; None: nothing did."""
    if path == KL_TOKENS:
        return merged.provenance.get("kl")
    place = path if DIMENSIONS[path].form is Form.ONE else f"{path}.{kind}"
    return merged.provenance.get(f"{place}.{key}")


def _put(tables: dict[str, Any], merged: Merged, path: str, kind: str, keys: Mapping[str, Any]) -> None:
    if path == KL_TOKENS:
        tables["kl"] = [
            {**term, "tokens": {"kind": kind, **_token_keys(term), **keys}} if _token_kind(term) == kind else dict(term)
            for term in _several(merged, "kl")
        ]
        return
    if DIMENSIONS[path].form is not Form.ONE:
        tables[path] = [*as_list(tables.get(path, {}), path), {"kind": kind, **keys}]
        return
    dimension, _, part = path.partition(".")
    tables[dimension] = _over(tables.get(dimension, {}), [part] if part else [], keys)


def _over(level: Any, names: list[str], keys: Mapping[str, Any]) -> Any:
    """Return `level` with `keys` put over its value at `names`, in any form the run file may use."""
    if not names:
        return ({"kind": level} if isinstance(level, str) else dict(level)) | dict(keys)
    return {**level, names[0]: _over(level.get(names[0], {}), names[1:], keys)}


def _several(merged: Merged, path: str) -> tuple[Table, ...]:
    table = merged.tables[path]
    assert isinstance(table, tuple)
    return table


def _token_kind(term: Table) -> str:
    tokens = term.get("tokens", "all")
    return str(tokens["kind"]) if isinstance(tokens, Mapping) else str(tokens)


def _token_keys(term: Table) -> dict[str, Any]:
    tokens = term.get("tokens", {})
    return dict(tokens) if isinstance(tokens, Mapping) else {}
