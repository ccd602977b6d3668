"""The status of a run, from its folder and, while it runs, from its broker. Reads only."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict
from rich.console import Console
from rich.table import Table
from rich.text import Text

from isentrope import runfolder
from isentrope.console import say
from isentrope.errors import IsentropeError, StorageError
from isentrope.learner import json_files
from isentrope.learner.measures import AlarmFigures
from isentrope.learner.placement_record import PlacementRecord
from isentrope.learner.records import BatchRow, Outcome
from isentrope.learner.training.alarms import figures, sentences
from isentrope.learner.training.dead_letters import DeadLetters
from isentrope.report import REPORT
from isentrope.rollout.broker.access import Role
from isentrope.rollout.broker.run_view import ActorState, RunView
from isentrope.rollout.broker.waiting import why_waiting
from isentrope.rollout.wire.plain_text import inactive
from isentrope.rollout.wire.types import batch_of, incarnation_of

DEADLINE_S = 5.0

T = TypeVar("T")


class Live(BaseModel):
    """The part of the status that comes from the broker."""

    model_config = ConfigDict(frozen=True)

    mode: str
    state: str
    waiting_for: str
    incarnation: int
    version: int
    counters: dict[str, int]
    queues: dict[str, int]
    actors: list[ActorState]
    quarantined: dict[str, str] = {}
    """Reasons for which actors are in quarantine, by their ids; the newest."""


class Status(BaseModel):
    """One run, now. The fields are those of `isentrope status --json`."""

    model_config = ConfigDict(frozen=True)

    run: str
    folder: str
    command_alive: bool
    """True if a command holds the folder."""
    placement: PlacementRecord | None
    """Actors of the command that runs; null: none runs, or it has started none yet."""
    groups_of: str
    """Folder of the run whose kept groups are trained, without a broker; empty: actors make them."""
    batches: int
    """Batches to train."""
    last_batch: BatchRow | None
    alarms: dict[str, AlarmFigures]
    """Alarms that were on at any time, by their key of `[learner.alarms]`."""
    outcome: Outcome | None
    live: Live | None
    """None: the broker cannot be reached, or no learner has opened the run."""
    unreachable: str
    """Reason why the broker cannot be reached; empty: it can."""
    report: str
    """Path of the report; empty: there is none yet."""
    dead_letters: int
    """Batches that killed the ranks and were retired; `isentrope dlq` lists them."""
    damaged: dict[str, str] = {}
    """Files of the folder that cannot be read, by their names: why, and what to do. What they hold is not told."""


def read_status(folder: Path) -> Status:
    """Return the status of the run in `folder`; RunFolderError if there is none."""
    record = runfolder.read_record(folder)
    live, unreachable = None, ""
    try:
        view = runfolder.open_view(record, Role.VIEWER, deadline_s=DEADLINE_S)
        live = _read_live(view)
        view.broker.close()
    except IsentropeError as error:
        unreachable = error.what
    alive, reader = runfolder.is_held(folder), _Reader()
    return Status(
        run=record.run,
        folder=str(folder.resolve()),
        command_alive=alive,
        placement=reader.tried(lambda: json_files.read(folder, PlacementRecord)) if alive else None,
        groups_of=record.groups_of,
        batches=record.batches,
        last_batch=reader.tried(lambda: json_files.read_last(folder, BatchRow)),
        alarms=reader.tried(lambda: figures(json_files.read_lines_with(folder, BatchRow, "alarms"))) or {},
        outcome=reader.tried(lambda: json_files.read(folder, Outcome)),
        live=live,
        unreachable=unreachable,
        report=str(report.resolve()) if (report := folder / REPORT).exists() else "",
        dead_letters=len(DeadLetters(folder)),
        damaged=reader.damaged,
    )


class _Reader:
    """Reads what can be read of a folder, and notes the rest."""

    def __init__(self) -> None:
        self.damaged: dict[str, str] = {}

    def tried(self, read: Callable[[], T]) -> T | None:
        """Return what `read` returns; None if the file is damaged, which is noted."""
        try:
            return read()
        except StorageError as error:
            self.damaged[Path(error.where).name] = f"{error.what}; {error.fix}"
            return None


def show(status: Status, console: Console) -> None:
    """Print the status as text."""
    parts = ((status.run, "bold"), ("  ", ""), (_state(status), ""), ("  ", ""), (status.folder, "dim"))
    console.print(Text.assemble(*((inactive(text), style) for text, style in parts)), soft_wrap=True)
    if status.last_batch is not None:
        last = status.last_batch
        console.print(
            f"batch {last.batch} of {status.batches}: reward {last.reward:.3f}, entropy {last.entropy:.3f}, "
            f"lag {last.lag_mean:.1f}, {last.time.tokens_per_second:,.0f} tokens/s",
            highlight=False,
        )
    for line in _trouble(status):
        say(console, line, "yellow")
    if status.outcome is not None and not status.command_alive:
        if status.report:
            say(console, f"report: {status.report}")
        return
    if status.live is None:
        say(console, status.unreachable or "no learner has opened the run yet")
        return
    say(console, status.live.waiting_for)
    if status.placement is not None and status.placement.waits:
        say(console, status.placement.waits)
    counters = status.live.counters
    retired = _by_reason(counters, "retired")
    counted = [f"{counters.get(name, 0):,} {name}" for name in ("issued", "published", "trained", "retired")]
    say(console, f"groups: {', '.join(counted)}{f' ({retired})' if retired else ''}")
    if failed := _by_reason(counters, "failed"):
        say(console, f"failed responses: {failed}")
    for actor, why in status.live.quarantined.items():
        say(console, f"{actor} is in quarantine: {why}", "yellow")
    console.print(_actors(status.live.actors))


def _trouble(status: Status) -> Iterator[str]:
    yield from sentences(status.alarms)
    yield from (f"{name} is damaged: {why}" for name, why in status.damaged.items())
    if status.dead_letters:
        yield f"dead letters: {status.dead_letters}; see `isentrope dlq list`"


def _by_reason(counters: dict[str, int], what: str) -> str:
    """Return the counters of `what` by reason, the largest first; "" if there are none."""
    found = {name.partition(":")[2]: count for name, count in counters.items() if count and name.startswith(f"{what}:")}
    most = sorted(found.items(), key=lambda each: -each[1])
    return ", ".join(f"{count:,} {reason}" for reason, count in most)


def _state(status: Status) -> str:
    if status.outcome is not None:
        end = f"{status.outcome.status} after {status.outcome.batches} batches"
        return end + (f": {status.outcome.what}" if status.outcome.what else "")
    if not status.command_alive and Outcome.FILE in status.damaged:
        return "not running; how it ended is not known, and the same command continues it"
    if not status.command_alive:
        return "interrupted; the same command continues it"
    if status.live is not None:
        return f"{status.live.mode}, {status.live.state}"
    return "training kept groups" if status.groups_of and status.last_batch is not None else "starting"


def _actors(actors: list[ActorState]) -> Table:
    table = Table("actor", "state", "version", "leases", "tokens/s", "silent for", "place", box=None, pad_edge=False)
    for actor in actors:
        version = f"{incarnation_of(actor.version)}.{batch_of(actor.version)}" if actor.version else "-"
        table.add_row(
            Text(actor.id),
            actor.state,
            version,
            str(actor.leases),
            f"{actor.tokens_per_s:,.0f}",
            f"{actor.silent_s:.0f} s",
            Text(f"{actor.host} {actor.pid}"),  # an actor names itself, and may do so in markup
        )
    return table


def _read_live(view: RunView) -> Live | None:
    control, weights = view.control(), view.weights()
    if control is None:
        return None
    return Live(
        mode=control.mode,
        state=control.state,
        waiting_for=why_waiting(view, view.spec(DEADLINE_S)),
        incarnation=view.incarnation(),
        version=weights.version if weights is not None else 0,
        counters=view.counters(),
        queues=view.queues(),
        actors=view.actors(),
        quarantined=learner.quarantined if (learner := view.learner()) is not None else {},
    )
