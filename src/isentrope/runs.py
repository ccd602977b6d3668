"""The command `runs`: every run folder below a folder, and the state that each is in."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path

from rich.console import Console
from rich.table import Table

from isentrope import runfolder
from isentrope.console import say
from isentrope.errors import IsentropeError, RunFolderError, StorageError
from isentrope.learner import json_files
from isentrope.learner.records import BatchRow, Outcome, RunRecord


class State(StrEnum):
    """State of a run folder; `dead`: its command was killed, and the same command continues it."""

    RUNNING = "running"
    FINISHED = "finished"
    STOPPED = "stopped"
    ERROR = "error"
    DEAD = "dead"
    DAMAGED = "damaged"


@dataclass(frozen=True, slots=True)
class ListedRun:
    """One run folder, in its JSON form."""

    run: str
    """Its name; that of the folder where the record is damaged."""
    state: State
    batch: int
    """Trained batches."""
    batches: int
    """Batches to train; 0: not known."""
    reward: float | None
    """Mean reward of the newest batch; null: none was trained."""
    started: float
    """Start of the newest command, in seconds of Unix time; 0: not known."""
    folder: str
    why: str
    """Reason of an error or a damage; empty otherwise."""


def list_runs(place: Path, as_json: bool, console: Console) -> int:
    """Print every run in a folder, and in its `runs`, the newest first; RunFolderError if there is no folder."""
    if not place.is_dir():
        raise RunFolderError(
            f"there is no folder {place.absolute()}", fix="give one that holds run folders, or a run's"
        )
    found = sorted((read_run(folder) for folder in _folders(place)), key=lambda run: -run.started)
    if as_json:
        console.print_json(json.dumps([asdict(run) for run in found]))
        return 0
    if not found:
        say(console, f"no run in {place.absolute()}")
        return 0
    table = Table("run", "state", "batch", "reward", "folder", "", box=None, pad_edge=False)
    for run in found:
        reward = "-" if run.reward is None else f"{run.reward:.3f}"
        table.add_row(run.run, run.state, f"{run.batch}/{run.batches or '?'}", reward, run.folder, run.why)
    console.print(table, highlight=False, markup=False)
    return 0


def read_run(folder: Path) -> ListedRun:
    """Return what a run folder says, whatever state it is in."""
    try:
        record = runfolder.read_record(folder)
    except IsentropeError as error:
        return ListedRun(folder.name, State.DAMAGED, 0, 0, None, 0.0, str(folder), error.what)
    damage, outcome, last = "", None, None
    try:
        last = json_files.read_last(folder, BatchRow)
        outcome = json_files.read(folder, Outcome)
    except StorageError as error:
        damage = f"{Path(error.where).name}: {error.what}"
    state = State.DEAD if outcome is None else State(outcome.status)
    if damage and outcome is None:
        state = State.DAMAGED
    if runfolder.is_held(folder):
        state, outcome = State.RUNNING, None
    return ListedRun(
        run=record.run,
        state=state,
        batch=last.batch if last is not None else 0,
        batches=record.batches,
        reward=last.reward if last is not None else None,
        started=record.started,
        folder=str(folder),
        why=outcome.what if outcome is not None else damage,
    )


def _folders(place: Path) -> Iterator[Path]:
    patterns = (RunRecord.FILE, f"*/{RunRecord.FILE}", f"{runfolder.RUNS}/*/{RunRecord.FILE}")
    yield from {path.parent for pattern in patterns for path in place.glob(pattern)}
