"""Run folders in every state that a command may find one in."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from run_records import make_outcome, make_row, make_run_record

from isentrope.learner import json_files
from isentrope.learner.records import BatchRow, RunRecord
from isentrope.learner.training.journal import Journal
from isentrope.runfolder import RunFolder

STATES = ("running", "finished", "stopped", "error", "dead", "damaged")


@contextmanager
def run_in(state: str, folder: Path, **changes: object) -> Iterator[Path]:
    """Make a run in this state that has trained three batches; one that runs does so while the block does."""
    claimed = RunFolder.claim(folder, config_digest="c", data_digest="d")
    claimed.begin(make_run_record(**{"run": state, "started": 2.0, **changes}))
    for batch in (1, 2, 3):
        Journal(folder, BatchRow).append(make_row(batch))
    if state != "running":
        claimed.release()
    if state in ("finished", "stopped", "error"):
        json_files.write(folder, make_outcome(status=state, batches=3, what="it broke" if state == "error" else ""))
    if state == "damaged":
        (folder / RunRecord.FILE).write_text("{")
    yield folder
    if state == "running":
        claimed.release()
