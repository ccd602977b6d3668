"""How a run ended: `outcome.json`, for whoever started it. Written once, by rank 0, as its last act."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

FILE = "outcome.json"


@dataclass(frozen=True, slots=True)
class Outcome:
    """status "finished": all batches are trained; "stopped": somebody asked for it; "error": what, where, fix say why.

    Counts are of groups over the whole run, but published: since the broker's state began. Seconds are this learner's.
    """

    status: Literal["finished", "stopped", "error"]
    exit_code: int = 0
    what: str = ""
    where: str = ""
    fix: str = ""
    incarnation: int = 0
    batches: int = 0
    version: int = 0
    """Newest published version."""
    trained: int = 0
    retired: Mapping[str, int] = field(default_factory=dict)
    issued: int = 0
    published: int = 0
    idle_s: float = 0.0
    total_s: float = 0.0


def forget(output_dir: Path) -> None:
    """Remove what an earlier learner wrote: the run goes on."""
    (output_dir / FILE).unlink(missing_ok=True)


def write(output_dir: Path, outcome: Outcome) -> None:
    """Write it; a reader finds all of it or nothing."""
    output_dir.mkdir(parents=True, exist_ok=True)
    unfinished = output_dir / (FILE + ".tmp")
    unfinished.write_text(json.dumps(asdict(outcome), indent=1), encoding="utf-8")
    unfinished.replace(output_dir / FILE)
