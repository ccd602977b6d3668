"""Supervision of a run from the start of its parts to their end: replaces actors, shows progress, forwards a stop.

It reads the learner's state from the broker and from the run's folder.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from isentrope.errors import IsentropeError, UnreachableError
from isentrope.launch.actors import Actors
from isentrope.launch.interrupts import Interrupts
from isentrope.launch.learner import Learner
from isentrope.launch.model import Making
from isentrope.learner import run_files
from isentrope.learner.records import Outcome
from isentrope.progress import Progress, Tail
from isentrope.rollout.broker.run_view import ActorState, RunView
from isentrope.rollout.broker.waiting import why_waiting
from isentrope.rollout.wire.control import Control, RunState
from isentrope.rollout.wire.spec import RunSpec
from isentrope.runfolder import blame

INTERVAL_S = 0.5

STOP_S = 60.0
"""Time limit of the learner's stop when the run cannot go on without its actors."""


@dataclass(frozen=True, slots=True)
class StartedRun:
    """One started run."""

    spec: RunSpec
    batches: int
    view: RunView
    actors: Actors
    learner: Learner
    model: Making | None
    """None: the model existed."""
    revive_broker: Callable[[], bool]
    """Starts a private broker again if it has died; returns True if it had."""
    start_timeout_s: float
    leave_timeout_s: float


class Supervisor:
    """The loop of the command."""

    def __init__(self, parts: StartedRun, interrupts: Interrupts, progress: Progress) -> None:
        self._parts = parts
        self._interrupts = interrupts
        self._progress = progress
        self._tail = Tail(Path(parts.spec.output_dir), from_end=True)
        self._started = time.monotonic()
        self._stop_sent = False
        self._incarnation = 0

    def watch(self) -> Outcome:
        """Wait until the learner has ended and the actors have left; raise an error that makes going on useless."""
        parts = self._parts
        while not parts.learner.has_ended:
            facts = self._look()
            self._show_batches()
            if facts is not None:
                if self._interrupts.asked and facts.control is None:
                    return Outcome.of_nothing("nothing was trained yet")
                if self._interrupts.asked and not self._stop_sent:
                    self._stop()
                self._tend(facts)
            time.sleep(INTERVAL_S)
        self._show_batches()
        outcome = run_files.read(Path(parts.spec.output_dir), Outcome)
        if outcome is None:
            raise parts.learner.failure()
        self._progress.waiting(["the actors leave"])
        obedient = (facts := self._look()) is not None and facts.is_over
        parts.actors.leave(parts.leave_timeout_s if obedient else 0.0)
        return outcome

    def _look(self) -> "_Facts | None":
        """Return the broker's state; None: it does not answer. The learner decides how long that may last."""
        view = self._parts.view
        try:
            control, announced, actors = view.control(), view.weights() is not None, view.actors()
            why = why_waiting(view, self._parts.spec) if control is not None and announced else ""
            return _Facts(control, view.incarnation(), why, actors)
        except UnreachableError as error:
            revived = self._parts.revive_broker()
            self._progress.note("the private broker had died and was started again" if revived else error.what)
            return None

    def _tend(self, facts: "_Facts") -> None:
        """Report changes, replace dead actors, and show what is waited for."""
        parts = self._parts
        if facts.control is not None:
            if 0 < self._incarnation < facts.incarnation:
                self._progress.note("the learner's ranks were started again, from the last checkpoint")
            self._incarnation = facts.incarnation
        elif time.monotonic() - self._started > parts.start_timeout_s:
            raise UnreachableError(
                f"the learner has not opened the run for {parts.start_timeout_s:.0f} s",
                where=str(Path(parts.spec.output_dir) / "logs"),
                fix="see learner-0.log; raise actors.start_timeout_s if it only needs more time",
            )
        if not facts.is_over:
            self._tend_actors(facts)
        self._progress.waiting([facts.why] if facts.why else self._late(facts))

    def _tend_actors(self, facts: "_Facts") -> None:
        try:
            for event in self._parts.actors.tend(facts.actors):
                self._progress.note(event)
        except IsentropeError as error:
            if facts.control is not None:
                self._stop()
                self._parts.learner.join(STOP_S)
            blame(Path(self._parts.spec.output_dir), error)
            raise

    def _late(self, facts: "_Facts") -> list[str]:
        """Return everything that is waited for while the run starts."""
        parts = self._parts
        late = ["the model is being made"] if parts.model is not None and not parts.model.is_done() else []
        late.append("the learner loads the model" if facts.control is not None else "the learner starts")
        return late + parts.actors.unready(facts.actors)

    def _stop(self) -> None:
        """Ask for the end; once more at the next read if the broker does not answer."""
        try:
            self._parts.view.request("stop")
        except UnreachableError as error:
            self._progress.note(error.what)
        else:
            self._stop_sent = True
            self._progress.note("stopping: the learner writes a checkpoint; Ctrl-C again ends at once")

    def _show_batches(self) -> None:
        for line in self._tail.read():
            self._progress.batch(line, self._parts.batches)


@dataclass(frozen=True, slots=True)
class _Facts:
    """State of the broker. why: what the run waits for; empty while it starts."""

    control: Control | None
    incarnation: int
    why: str
    actors: Sequence[ActorState]

    @property
    def is_over(self) -> bool:
        """True if the actors have been told to leave."""
        return self.control is not None and self.control.state is RunState.STOP
