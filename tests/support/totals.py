"""Sums of what soak tests have done, in `docs/results/`: by part, so that a session that is stopped loses nothing."""

import fcntl
import json
import os
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from resume import commit

from isentrope.rollout.wire.files import write_whole

RESULTS = Path(__file__).parents[2] / "docs" / "results" / "soak.json"


def add(subject: str, part: str, counts: Mapping[str, float], path: Path = RESULTS) -> None:
    """Record one part of a subject; parts of another commit are dropped, since they show nothing of this one."""
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        table: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        found = table.get(subject, {})
        kept = found["by_part"] if found.get("commit") == commit() else {}
        by_part = {**kept, part: dict(counts)}
        sums: dict[str, float] = {}
        for name, count in (pair for each in by_part.values() for pair in each.items()):
            sums[name] = sums.get(name, 0) + count
        table[subject] = {
            "commit": commit(),
            "date": f"{datetime.now(UTC):%Y-%m-%d}",
            "machine": f"{platform.machine()}, {os.cpu_count()} cores",
            "parts": len(by_part),
            "sums": sums,
            "by_part": by_part,
        }
        write_whole(path, json.dumps(dict(sorted(table.items())), indent=1) + "\n", durable=True)
