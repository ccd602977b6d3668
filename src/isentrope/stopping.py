"""The command `stop`: asks a run to end as Ctrl-C does, and waits until it has."""

import contextlib
import json
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil
from rich.console import Console

from isentrope import runfolder
from isentrope.console import say, say_beside
from isentrope.errors import StalledError, UnreachableError
from isentrope.learner.records import RunRecord
from isentrope.long_waits import waiting_for
from isentrope.rollout.broker.access import Role
from isentrope.rollout.broker.run_view import RunView
from isentrope.runs import State, read_run

LOOK_S = 0.2

DEADLINE_S = 10.0

CLOCK_S = 1.0
"""Largest difference of two clocks by which the start of a process is judged."""


@dataclass(frozen=True, slots=True)
class Stopped:
    """State of the run afterwards, in its JSON form."""

    run: str
    was_running: bool
    state: State
    batches: int
    folder: str


def stop(place: Path, timeout_s: float, as_json: bool, console: Console) -> int:
    """Ask the run in a folder to end, wait, and print how it has ended; one that has ended stays as it is.

    Raises:
        RunFolderError: there is no run, or its record is damaged.
        UnreachableError: it runs on another machine, and its broker cannot be reached.
        StalledError: it has not ended in time; it was asked, and goes on ending.
    """
    folder = runfolder.find(place)
    record = runfolder.read_record(folder)
    was_running = runfolder.is_held(folder)
    if was_running:
        with _asked(record) as (asked, view):
            line = f"{record.run}: {asked} was asked to end; the learner finishes its batch and writes a checkpoint"
            if not as_json:
                say(console, line)
            with waiting_for(f"the end of {record.run} (process {record.pid} on {record.host})", say_beside):
                _await_end(folder, record, view, timeout_s)
    run = read_run(folder)
    if as_json:
        console.print_json(json.dumps(asdict(Stopped(run.run, was_running, run.state, run.batch, str(folder)))))
        return 0
    ended = f"{run.state} after {run.batch} batches" + (f": {run.why}" if run.why else "")
    before = "" if was_running else "was not running: "
    say(console, f"{run.run} {before}{ended}")
    return 0


@contextlib.contextmanager
def _asked(record: RunRecord) -> Iterator[tuple[str, RunView | None]]:
    """Send the command its signal, or ask the learner where the command is on another machine; yield who was asked, and
    the broker by which the learner was."""
    if record.host == runfolder.host() and _is_command(record):
        os.kill(record.pid, signal.SIGTERM)
        yield f"the command (process {record.pid})", None
        return
    view = runfolder.open_view(record, Role.OPERATOR, deadline_s=DEADLINE_S)
    with contextlib.closing(view.broker):
        if view.control() is None:
            raise UnreachableError(
                f"no learner has opened run {record.run!r} yet, and its command is on {record.host}",
                fix=f"end process {record.pid} there, or try again when it trains",
            )
        view.ask_to_stop()
        yield "the learner", view


def _is_command(record: RunRecord) -> bool:
    """Return True if the process is the one that wrote the record, and not a later one with its number."""
    try:
        began: float = psutil.Process(record.pid).create_time()
    except psutil.Error:
        return False
    return began <= record.started + CLOCK_S


def _await_end(folder: Path, record: RunRecord, view: RunView | None, timeout_s: float) -> None:
    """Wait until nobody holds the folder; by `view`, a broker that has lost the request gets it again."""
    deadline = time.monotonic() + timeout_s
    while runfolder.is_held(folder):
        if time.monotonic() > deadline:
            raise StalledError(
                f"{record.run!r} was asked to end and still runs after {timeout_s:.0f} s",
                where=str(folder),
                fix="`isentrope status` names what it waits for; a second SIGTERM ends the command at once",
            )
        if view is not None:
            with contextlib.suppress(UnreachableError):  # it ends with the command, or comes back
                view.ask_to_stop()
        time.sleep(LOOK_S)
