"""Supervision of a run from its start to its end: replaces actors, shows progress, forwards a stop.

It reads the learner's state from the broker and from the run's folder.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from isentrope.config import Config
from isentrope.errors import AccessError, FencedError, IsentropeError, StorageError, UnreachableError
from isentrope.launch.actors import LEAVE_EXTRA_S, Actors
from isentrope.launch.interrupts import Interrupts
from isentrope.launch.learner import Learner
from isentrope.launch.model import Making
from isentrope.launch.outages import Outages
from isentrope.launch.ray_watch import RayWatch
from isentrope.launch.scaler import Scaler
from isentrope.learner import json_files
from isentrope.learner.outage_record import OutageRow
from isentrope.learner.placement_record import PlacementRecord
from isentrope.learner.records import BatchRow, EvalRow, Notice, Outcome
from isentrope.learner.training.journal import Journal
from isentrope.long_waits import waiting_for
from isentrope.progress import Progress, Tail
from isentrope.rollout.broker.reaper import Reaper
from isentrope.rollout.broker.run_view import ActorState, RunView
from isentrope.rollout.broker.waiting import why_waiting
from isentrope.rollout.wire.control import Control, RunState
from isentrope.rollout.wire.spec import RunSpec
from isentrope.runfolder import record_error

INTERVAL_S = 0.5

ROOM_S = 5.0
"""Time that actors wait for room before it is reported: a place takes a moment to be found."""

STOP_S = 60.0
"""Time limit of the learner's stop when the run cannot go on without its actors."""

STOP_WITHOUT_RAY_S = 15.0
"""The same when Ray is lost, which soon ends this process and the ranks."""


@dataclass(frozen=True, slots=True)
class StartedRun:
    """Everything the command has started, and what it was started with."""

    spec: RunSpec
    config: Config
    view: RunView
    actors: Actors
    scaler: Scaler
    learner: Learner
    model: Making | None
    """None: the model existed."""
    ray: RayWatch
    revive_broker: Callable[[], bool]
    """Starts a private broker again if it has died; returns True if it had."""


class Supervisor:
    """The loop of the command."""

    def __init__(self, run: StartedRun, interrupts: Interrupts, progress: Progress) -> None:
        self._run = run
        self._interrupts = interrupts
        self._progress = progress
        folder = Path(run.spec.output_dir)
        self._batches = Tail(folder, BatchRow, from_end=True)
        self._evaluations = Tail(folder, EvalRow, from_end=True)
        self._notices = Tail(folder, Notice, from_end=True)
        self._started = time.monotonic()
        self._stop_sent = False
        self._incarnation = 0
        self._placed: PlacementRecord | None = None
        self._room_asked: float | None = None
        self._outages = Outages(Journal(folder, OutageRow))

    def watch(self) -> Outcome:
        """Wait until the learner has ended and the actors have left; raise an error that makes going on useless."""
        run = self._run
        while not run.learner.has_ended:
            if run.ray.is_lost:
                self._end_without_ray()
            for event in run.learner.tend():
                self._progress.note(event)
            shown = self._look()
            self._outages.broker(answers=shown is not None)
            self._show_lines()
            if shown is not None:
                if self._interrupts.asked and shown.control is None and not self._incarnation:
                    return Outcome.of_nothing("nothing was trained yet")
                if self._interrupts.asked:
                    self._stop()
                self._tend(shown)
            time.sleep(INTERVAL_S)
        self._show_lines()
        self._outages.end()
        failure = run.learner.failure()
        if isinstance(failure, FencedError):
            raise failure  # an outcome would be the other learner's
        outcome = json_files.read(Path(run.spec.output_dir), Outcome)
        if outcome is None:
            raise failure or run.learner.without_outcome()
        self._progress.waiting(["the actors leave"])
        obedient = (shown := self._look()) is not None and shown.is_over
        with waiting_for("the actors to leave", self._progress.note):
            run.actors.leave(run.config.actors.drain_s + LEAVE_EXTRA_S if obedient else 0.0)
        return outcome

    def _end_without_ray(self) -> NoReturn:
        """End the run, whose processes Ray will end: with a last checkpoint, if the learner still writes one."""
        error = UnreachableError(
            "Ray's control store (GCS) or this machine's part of Ray (raylet) is gone, and the run's processes with it",
            where=self._run.ray.place,
            fix="start the same command again: it goes on from the last checkpoint",
        )
        folder = Path(self._run.spec.output_dir)
        record_error(folder, error)  # first, as this process may be ended
        self._progress.note(error.what)
        self._stop()
        deadline = time.monotonic() + STOP_WITHOUT_RAY_S
        with waiting_for("the learner to write a checkpoint", self._progress.note):
            while time.monotonic() < deadline and ((shown := self._look()) is None or not shown.is_over):
                if shown is not None:
                    self._stop()
                time.sleep(INTERVAL_S)
        record_error(folder, error)  # the learner's own outcome says that it was stopped
        raise error

    def _look(self) -> "_Shown | None":
        """Return the broker's state; None: it does not answer, or has just been started again. The learner decides how
        long that may last."""
        view = self._run.view
        if self._run.revive_broker():  # first, as a call to a dead one is repeated for seconds
            self._progress.note("the private broker had died and was started again")
            return None
        try:
            control, announced, actors = view.control(), view.weights() is not None, view.actors()
            why = why_waiting(view, self._run.spec) if control is not None and announced else ""
            return _Shown(control, view.incarnation(), why, actors)
        except UnreachableError as error:
            self._progress.note(error.what)
            return None

    def _tend(self, shown: "_Shown") -> None:
        """Report changes, replace dead actors, and show what is waited for."""
        run = self._run
        if shown.control is not None:
            if 0 < self._incarnation < shown.incarnation:
                self._progress.note("the learner's ranks were started again, from the last checkpoint")
            self._incarnation = shown.incarnation
            run.learner.opened(shown.incarnation)
            self._outages.learner(shown.incarnation)
        elif self._is_late():
            raise UnreachableError(
                f"the learner has not opened the run for {run.config.learner.start_timeout_s:.0f} s",
                where=str(Path(run.spec.output_dir) / "logs"),
                fix="see learner-0.log; raise learner.start_timeout_s if it only needs more time",
            )
        if not shown.is_over:
            self._scale(shown)
            self._tend_actors(shown)
        placed = run.actors.record()
        self._outages.actors(placed)
        if placed != self._placed:
            self._placed = placed
            try:
                json_files.write(Path(run.spec.output_dir), placed)
            except StorageError as error:  # for people; the next change writes all of it
                self._progress.note(error.what)
        self._report_room(placed.waits)
        why = "the learner's ranks start again" if run.learner.starts_again else shown.why
        waits = [why] if why else self._late(shown)
        self._progress.waiting([*waits, placed.waits] if placed.waits else waits)

    def _is_late(self) -> bool:
        """Return True if the first ranks have not opened the run in time. Those that start again have a limit in
        `Learner`, and a broker that came back empty is filled by a learner that runs."""
        if self._incarnation or self._run.learner.starts_again:
            return False
        return time.monotonic() - self._started > self._run.config.learner.start_timeout_s

    def _report_room(self, waits: str) -> None:
        """Report, once each time, that actors wait for room: the line of what is waited for may not be seen."""
        now = time.monotonic()
        if not waits:
            self._room_asked = None
        elif self._room_asked is None:
            self._room_asked = now
        elif now - self._room_asked >= ROOM_S:
            self._room_asked = math.inf
            self._progress.note(waits)

    def _scale(self, shown: "_Shown") -> None:
        """Take a step towards the number of actors that is wanted, once more at the next look if the broker is away."""
        try:
            for event in self._run.scaler.look(shown.actors):
                self._progress.note(event)
        except UnreachableError as error:
            self._progress.note(error.what)

    def _tend_actors(self, shown: "_Shown") -> None:
        try:
            for event in self._run.actors.tend(shown.actors):
                self._progress.note(event)
        except IsentropeError as error:
            if shown.control is not None:
                self._stop()
                with waiting_for("the learner to write a checkpoint", self._progress.note):
                    self._run.learner.join(STOP_S)
            record_error(Path(self._run.spec.output_dir), error)
            raise
        self._revoke()

    def _revoke(self) -> None:
        """Revoke what actors held whose end this command has seen, once more at the next look if the broker is
        away. Their silence would tell the learner too, three heartbeats later."""
        ended = self._run.actors.ended
        while ended:
            try:
                Reaper(self._run.view.broker, self._run.spec).revoke_process(ended[0])
            except UnreachableError as error:
                self._progress.note(error.what)
                return
            except AccessError as error:  # by rules of an earlier version
                self._progress.note(error.what)
            del ended[0]

    def _late(self, shown: "_Shown") -> list[str]:
        """Return everything that is waited for while the run starts."""
        run = self._run
        late = ["the model is being made"] if run.model is not None and not run.model.is_done() else []
        late.append("the learner loads the model" if shown.control is not None else "the learner starts")
        return late + run.actors.unready(shown.actors)

    def _stop(self) -> None:
        """Ask for the end, unless it is asked for; once more at the next look if the broker does not answer."""
        try:
            asks = self._run.view.ask_to_stop()
        except UnreachableError as error:
            self._progress.note(error.what)
            return
        if asks and not self._stop_sent:
            self._stop_sent = True
            self._progress.note("stopping: the learner writes a checkpoint; Ctrl-C again ends at once")
        elif asks:
            self._progress.note("the broker has lost the request to stop, and gets it again")

    def _show_lines(self) -> None:
        """Show what the learner has written since the last call."""
        for batch in self._batches.read():
            self._progress.batch(batch, self._run.config.learner.batches)
            self._outages.batch(batch)
            self._run.scaler.note(batch)
        for notice in self._notices.read():
            self._progress.note(f"warning: {notice.text}")
        for evaluation in self._evaluations.read():
            self._progress.evaluation(evaluation)


@dataclass(frozen=True, slots=True)
class _Shown:
    """State of the broker. why: what the run waits for; empty while it starts."""

    control: Control | None
    incarnation: int
    why: str
    actors: Sequence[ActorState]

    @property
    def is_over(self) -> bool:
        """True if the actors have been told to leave."""
        return self.control is not None and self.control.state is RunState.STOP
