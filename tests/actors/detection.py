"""What the soak tests of the canary found: faults by architecture and dtype, kept in `docs/results`."""

import datetime
import json
import os
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from architectures import CONFIGS
from publishing import Dtype, TinyLearner
from resume import commit

RESULTS = Path(__file__).parents[2] / "docs" / "results"

DTYPES: tuple[Dtype, ...] = ("float32", "bfloat16")

BIASED = ("gpt2", "qwen2", "opt", "glm4")
EXPERTS = ("qwen3_moe", "mixtral", "olmoe", "glm4_moe")

NONE, STALE, LABEL = "no fault", "stale quarter", "label alone"
SWAPPED, MISSING = "swapped in the files", "one not published"
EXCHANGED, BIAS, UNPACKED = "swapped by the engine", "biases left out", "experts not packed"
FAULTS = (NONE, STALE, LABEL, SWAPPED, MISSING, EXCHANGED, BIAS, UNPACKED)


@dataclass(frozen=True, slots=True)
class Cell:
    """What became of one version."""

    by: str
    """What refused it: `bits`, `names` or `log-probabilities`; empty: it was served."""
    gap: float | None = None
    """Mean difference of log-probabilities, nats; where the bits refused it, the one that they would have let pass."""
    limit: float | None = None
    """Largest such difference that is served, nats."""
    wrong: int | None = None
    """Tensors whose bits were not the learner's."""


def keep(learner: TinyLearner, fault: str, cell: Cell, results: Path = RESULTS) -> None:
    """Write a cell into both pages; those of the same row that another commit has found are forgotten."""
    made = {
        "commit": commit(),
        "date": datetime.date.today().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
    }
    data = results / "detection.json"
    rows: dict[str, Any] = json.loads(data.read_text(encoding="utf-8")) if data.exists() else {}
    name = f"{learner.architecture} {learner.dtype}"
    found = rows.get(name, {})
    cells = found["cells"] if found.get("commit") == made["commit"] else {}
    rows[name] = made | {"cells": cells | {fault: asdict(cell)}}
    data.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    (results / "detection.md").write_text(page(rows), encoding="utf-8")


HEAD = """# Faults that are found

Each fault was given to a real engine of a tiny model, after a step of 1e-6 of every weight, and no version with
one was served. A column says what refused it:

- *bits* with the number of tensors whose hash was not that of the learner's memory. In brackets is the mean
  difference of log-probabilities that these weights had, as a multiple of what is allowed: below 1, hashes alone
  could find the fault.
- *names*: a tensor was not in the files.
- A number alone is that multiple for a version whose bits were right, and which log-probabilities refused.

The first column is of versions without a fault, at steps of 1e-6, 1e-4 and 1e-3: the largest multiple, and in
brackets what is allowed, in nats.

- *stale quarter*: every fourth tensor is that of the version before
- *label alone*: the engine takes the label of the version, and no weights
- *swapped in the files*: two tensors of equal shape
- *one not published*: a bias where there are any, otherwise the first tensor
- *swapped by the engine*: two matrices of equal shape, after their bits were compared
- *biases left out*: those of one kind in all layers, by the engine, after their bits were compared
- *experts not packed*: the engine computes with the experts of the version before, at a step of 1e-3

`make soak` measures it again and writes this page. A row that is not there has not been measured.
"""


def page(rows: Mapping[str, Any]) -> str:
    """Return the table as a page."""
    lines = [HEAD]
    for dtype in DTYPES:
        lines += [f"## {dtype}", "", f"| | {' | '.join(FAULTS)} | commit, date |", "|---" * (len(FAULTS) + 2) + "|"]
        for name in CONFIGS:
            if (row := rows.get(f"{name} {dtype}")) is not None:
                cells = [_text(row["cells"].get(fault)) for fault in FAULTS]
                lines.append(f"| `{name}` | {' | '.join(cells)} | {row['commit']}, {row['date']} |")
        lines.append("")
    machines = sorted({row["machine"] for row in rows.values()})
    return "\n".join([*lines, f"{'; '.join(machines)}.", ""])


def _text(cell: Mapping[str, Any] | None) -> str:
    if cell is None:
        return ""
    share = "" if cell["gap"] is None else f"{cell['gap'] / cell['limit']:.2g}"
    if not cell["by"]:
        return f"{share} ({cell['limit']:.1e})"
    if cell["by"] == "log-probabilities":
        return share
    told = [cell["by"], str(cell["wrong"] or ""), f"({share})" if share else ""]
    return " ".join(each for each in told if each)
