"""Convergence of the number of actors to what is wanted: by an operator, or by the lag between actors and learner.

The wanted number stands in the broker and stays there, so that the next command of the run goes on with it.
"""

import time
from collections.abc import Sequence

from isentrope.actors.config import ActorsConfig
from isentrope.launch.actors import Actors
from isentrope.launch.scaling import Lag, Step
from isentrope.learner.placement_record import ScaleRow
from isentrope.learner.records import BatchRow
from isentrope.learner.training.journal import Journal
from isentrope.rollout.broker.run_view import ActorState, RunView
from isentrope.rollout.wire.control import Desired


class Scaler:
    """The number of actors of one command. Not thread-safe."""

    def __init__(
        self, actors: Actors, view: RunView, config: ActorsConfig, journal: Journal[ScaleRow], since: float
    ) -> None:
        """Start with the run file's number; one that was asked for after `since`, its time, wins over it."""
        self._actors = actors
        self._view = view
        self._drain_s = config.drain_s
        self._journal = journal
        self._since = since
        self._wanted = config.count
        self._seen = ""
        self._batch = 0
        self._rows: list[BatchRow] = []
        self._lag = Lag(config.min, config.max or config.count) if config.autoscale == "lag" else None

    def note(self, row: BatchRow) -> None:
        """Take a trained batch into account at the next look."""
        self._rows.append(row)

    def look(self, states: Sequence[ActorState]) -> list[str]:
        """Read what is wanted, and take one step towards it; return a line if it has changed.

        Raises:
            UnreachableError: the broker does not answer.
        """
        asked = self._view.desired()
        if asked is not None and asked.id != self._seen and asked.at > self._since:
            events = self._take(asked, None)
        else:
            events = self._decide()
        leaving = self._actors.resize(self._wanted, states)
        self._view.ask_to_leave(leaving, self._drain_s)
        return events

    def _decide(self) -> list[str]:
        """Decide by the batches that were trained since the last look, if the run file asks for it."""
        rows, self._rows = self._rows, []
        if rows:
            self._batch = rows[-1].batch
        if self._lag is None:
            return []
        queues = self._view.queues()
        self._lag.look(queues["waiting"] + queues["leased"] == 0)
        steps = [self._lag.batch(row, self._wanted, waits=bool(self._actors.waits())) for row in rows]
        return [line for step in steps if step for line in self._take(self._view.want(self._wanted + step.by), step)]

    def _take(self, desired: Desired, step: Step | None) -> list[str]:
        before, self._wanted, self._seen = self._wanted, desired.actors, desired.id
        if before == self._wanted:
            return []
        row = ScaleRow(
            at=time.time(),
            batch=self._batch,
            before=before,
            wanted=self._wanted,
            why="asked" if step is None else "idle" if step.by > 0 else "closed",
            idle=step.idle if step is not None else None,
            closed=step.closed if step is not None else None,
        )
        self._journal.append(row)
        why = {"asked": "it was asked for", "idle": "the learner waits", "closed": "admission is closed"}[row.why]
        return [f"{before} -> {self._wanted} actors: {why}"]
