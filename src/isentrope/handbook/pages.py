"""Entries as Markdown: the two pages of `docs/` that are generated."""

from collections.abc import Iterable, Iterator

from isentrope.exporter.quantities import QUANTITIES
from isentrope.handbook.entry import HelpEntry
from isentrope.handbook.keys import run_file_keys, tables
from isentrope.handbook.outputs import files, outputs
from isentrope.handbook.stages import stages

GENERATED = "<!-- Written by `make docs` from docstrings in the source: change those, not this page. -->"

CONFIGURATION = f"""{GENERATED}
# Configuration: every key of a run file

A run file is TOML. Only `run.name`, `model.path`, `data.train` and a reward must be set. On the command line a key is
set by its whole name: `isentrope train run.toml learner.batches=20`. `isentrope help KEY` prints an entry of this page.
Durations are in seconds (`_s`), sizes in bytes (`_bytes`) or GiB (`_gib`), lags in batches; log-probabilities,
entropies and divergences are in nats.

After a run has begun only keys that say where and how fast may change (`MAY_CHANGE` in
[`config.py`](../src/isentrope/config.py)); anything else makes another run.
"""

STAGES = """## [learner.objective]

What a method is made of. Presets (`learner.method`) set these keys; a run file sets them on top, as in
`clip = { kind = "ppo", high = 0.28 }`. In formulas N is the number of responses and T that of a response's tokens. How
stages are composed is in [`learner/objective/README.md`](../learner/objective/README.md).
"""

METRICS = f"""{GENERATED}
# Outputs: every key that a run writes

The files lie in the run's folder; those that end in `.jsonl` hold one JSON object a line. A dot stands for a nested
object: `time.at` is `{{"time": {{"at": …}}}}`. `isentrope help KEY` prints an entry of this page. Log-probabilities,
entropies and divergences are in nats, lags in batches.

With `learner.tensorboard` every number of a line of `metrics.jsonl` goes there too, but for lists, and with `/` for the
dot: `time.wait_s` is TensorBoard's tag `time/wait_s`. The numbers of an evaluation go there as `eval/…`. Prometheus
gets its metrics from `isentrope exporter`; the last table names them.
"""

PROMETHEUS = """## Metrics of `isentrope exporter`

Gauges of the learner are those of the newest batch; what that lacks has no series. Counters go on when a learner
continues from a checkpoint, so they count what was trained again too.
"""


def configuration() -> str:
    """Return `docs/configuration.md`."""
    parts = [CONFIGURATION]
    for table, text in tables().items():
        entries = [entry for entry in run_file_keys() if entry.group == table]
        parts.append(f"## [{table}]\n\n{text[:1].upper()}{text[1:]}\n\n{_with_defaults(table, entries)}")
    return "\n".join([*parts, STAGES, *_stages()])


def metrics() -> str:
    """Return `docs/metrics.md`."""
    parts = [METRICS]
    for file, text in files().items():
        rows = [(f"`{entry.name}`", entry.value, entry.text) for entry in outputs() if entry.group == file]
        parts.append(f"## {file}\n\n{text}\n\n{_table(('Key', 'Type', 'Unit and meaning'), rows)}")
    rows = [
        (f"`{each.name}`", ", ".join(f"`{label}`" for label in ("run", *each.labels)), f"{each.kind}: {each.text}")
        for each in QUANTITIES
    ]
    parts.append(f"{PROMETHEUS}\n{_table(('Metric', 'Labels', 'Type and meaning'), rows)}")
    return "\n".join(parts)


def _stages() -> Iterator[str]:
    words = [entry for entry in stages() if not entry.keys and entry.group == "learner.objective"]
    yield _with_defaults("", words)
    for entry in stages():
        if entry.name == entry.group:
            default = f" Default: `{entry.default}`." if entry.default else ""
            yield f"### {entry.name}\n\n{entry.text} Takes {entry.value}.{default}\n"
        elif entry not in words:
            yield f"#### {entry.name}\n\n{entry.text}\n"
        if entry.keys:
            yield _with_defaults(entry.name, entry.keys)


def _with_defaults(prefix: str, entries: Iterable[HelpEntry]) -> str:
    rows = [
        (
            f"`{entry.name.removeprefix(f'{prefix}.')}`",
            entry.value,
            f"`{entry.default}`" if entry.default else "must be set",
            entry.text,
        )
        for entry in entries
    ]
    return _table(("Key", "Type and bounds", "Default", "Meaning"), rows)


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "".join(f"| {' | '.join(_cell(text) for text in line)} |\n" for line in lines)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
