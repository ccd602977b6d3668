"""Print what the loss of a process costs, and put it into README: from `soak.json`, which
`tests/system/test_recovery_cost.py` writes.

    python docs/results/recovery_table.py
"""

import json
import statistics
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

README = Path(__file__).parents[2] / "README.md"
DATA = Path(__file__).with_name("soak.json")

BEGIN, END = "<!-- table of the recovery in docs/results/soak.json -->", "<!-- end of the recovery -->"

SHORT, LONG = "the loss of a process, batches of 1 s", "the loss of a process, batches of 13 s"
"""Subjects among the totals: that from which seconds lost are taken, and that of the run that checks them."""

ROLES = {"rank": "a rank of the learner", "actor": "an actor", "engine": "an actor's engine", "broker": "the broker"}
BATCH_S = (1, 10, 60)
SPAN = 10
"""Batches in which one process is lost."""


def main() -> None:
    """Print the table, and write it where the README has it."""
    made = table(json.loads(DATA.read_text(encoding="utf-8")))
    sys.stdout.write(made)
    before, _, rest = README.read_text(encoding="utf-8").partition(BEGIN)
    if rest:
        README.write_text(f"{before}{BEGIN}\n{made}{END}{rest.partition(END)[2]}", encoding="utf-8")


def table(data: Mapping[str, Any]) -> str:
    """Return the table, from the totals of soak tests; empty: they were not measured together."""
    short, long = data.get(SHORT), data.get(LONG)
    if not short or not long or short["commit"] != long["commit"]:
        return ""
    batches = " | ".join(f"of {seconds} s" for seconds in BATCH_S)
    lines = [
        "What the loss of one process costs, in the median of three losses, as `make soak` measures it:",
        "",
        f"| lost every tenth batch | seconds lost | useful time, batches {batches} | in a run with batches of 13 s |",
        "|---|---|---|---|---|---|",
        *(f"| {' | '.join(_cells(role, short, long))} |" for role in ROLES),
    ]
    worst = min(_useful(each) for each in long["by_part"].values())
    end = f"With batches of 13 s, {worst:.0%} of the time or more was useful."
    where = f"{short['machine']}, load {_load(short)} and {_load(long)}, {short['date']}, commit {short['commit']}"
    return "".join(line + "\n" for line in [*lines, "", f"{end} {where}."])


def ettr(batch_s: float, lost_s: float) -> float:
    """Return the effective training time ratio, useful time by all time, where so much is lost every tenth batch."""
    return SPAN * batch_s / (SPAN * batch_s + lost_s)


def _useful(seen: Mapping[str, float]) -> float:
    return ettr(seen["seconds of a batch"], seen["seconds lost"])


def _load(found: Mapping[str, Any]) -> str:
    """Return the processes that wanted a core, at the median of the faults."""
    return f"{statistics.median(part['load'] for part in found['by_part'].values()):.0f}"


def _cells(role: str, short: Mapping[str, Any], long: Mapping[str, Any]) -> list[str]:
    each = [part["seconds lost"] for name, part in short["by_part"].items() if name.rstrip(" 0123456789") == role]
    lost_s = statistics.median(each)
    return [
        ROLES[role],
        f"{lost_s:.0f} ({', '.join(f'{seconds:.0f}' for seconds in sorted(each))})",
        *(f"{ettr(seconds, lost_s):.0%}" for seconds in BATCH_S),
        f"{_useful(long['by_part'][f'{role} 1']):.0%}",
    ]


if __name__ == "__main__":
    main()
