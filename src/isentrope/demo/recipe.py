"""The demo's run: the run file beside this module, with the command line's changes. Imports nothing heavy."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

RUN_FILE = Path(__file__).with_name("run.toml")

TOY_SCALE = Path(__file__).with_name("toy_scale.toml")
"""Settings by dimension and kind, on top of presets: shares of tokens made for 7B models select less than one here."""

MODEL_FOLDER = "model"
"""The model's place in the output folder."""


@dataclass(frozen=True, slots=True)
class Options:
    """Values a user may change without writing a run file. None: the run file's value."""

    method: tuple[str, ...] | None = None
    """Presets, merged left to right."""
    mode: str | None = None
    batches: int | None = None
    seed: int | None = None
    actors: int | None = None
    ranks: int | None = None


def table(output_dir: Path, options: Options) -> dict[str, object]:
    """Return the demo's run file, with everything it writes in `output_dir`; not yet validated."""
    values = tomllib.loads(RUN_FILE.read_text(encoding="utf-8"))
    return merged(values, _changes(output_dir.absolute(), options))


def toy_scaled(values: Mapping[str, object]) -> tuple[dict[str, object], tuple[str, ...]]:
    """Return `values` with `TOY_SCALE` applied to the kinds its objective uses, and a line per change. Loads torch."""
    from isentrope.demo.scale import Adjustment, adjust

    adjustments = tomllib.loads(TOY_SCALE.read_text(encoding="utf-8"))["adjust"]
    learner = values["learner"]
    assert isinstance(learner, Mapping), "the recipe has this table"
    found = adjust(
        learner["method"], learner.get("objective", {}), [Adjustment(**each) for each in adjustments], RUN_FILE.parent
    )
    return merged(values, {"learner": {**found.run, "objective": found.objective}}), found.lines


def merged(base: Mapping[str, object], changes: Mapping[str, object]) -> dict[str, object]:
    """Return `base` updated by `changes`, table by table."""
    result = dict(base)
    for key, value in changes.items():
        below = result.get(key)
        result[key] = merged(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
    return result


def _changes(output_dir: Path, options: Options) -> dict[str, object]:
    asked: dict[str, dict[str, object]] = {
        "run": {"seed": options.seed},
        "actors": {"count": options.actors},
        "learner": {
            "method": list(options.method) if options.method else None,
            "mode": options.mode,
            "batches": options.batches,
            "ranks": options.ranks,
        },
    }
    changes: dict[str, object] = {
        table: {key: value for key, value in keys.items() if value is not None} for table, keys in asked.items()
    }
    place = {"run": {"output_dir": str(output_dir)}, "model": {"path": str(output_dir / MODEL_FOLDER)}}
    return merged(changes, place)
