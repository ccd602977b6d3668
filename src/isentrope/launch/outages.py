"""Outages of a run's processes, from what the command sees of them: one line each, once it is over."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

from isentrope.learner.outage_record import OutageRow
from isentrope.learner.placement_record import PlacementRecord
from isentrope.learner.records import BatchRow


class Lines(Protocol):
    """Receiver of the lines: a `Journal`."""

    def append(self, row: OutageRow) -> None: ...


@dataclass(slots=True)
class _Outage:
    """An outage that is not over. first: the first batch that was trained again; 0: none yet."""

    role: Literal["learner", "actor", "broker"]
    name: str
    began: float
    first: int = 0


class Outages:
    """The outages of one command. Not thread-safe."""

    def __init__(self, lines: Lines, clock: Callable[[], float] = time.time) -> None:
        self._lines = lines
        self._clock = clock
        self._answered_at = clock()
        self._broker: _Outage | None = None
        self._learner: _Outage | None = None
        self._incarnation = 0
        self._newest = 0
        self._trained_at = 0.0
        self._actors: list[_Outage] = []
        self._serving: set[str] = set()

    def broker(self, *, answers: bool) -> None:
        """Record whether the broker answered the present look."""
        if answers:
            self._close(self._broker)
            self._broker, self._answered_at = None, self._clock()
        elif self._broker is None:
            self._broker = _Outage("broker", "", self._answered_at)

    def learner(self, incarnation: int) -> None:
        """Record the learner that holds the run; 0: none yet."""
        if 0 < self._incarnation < incarnation:
            began = self._clock() if self._learner is not None or not self._newest else self._trained_at
            self._close(self._learner)
            self._learner = _Outage("learner", str(self._incarnation), began)
        self._incarnation = incarnation

    def batch(self, row: BatchRow) -> None:
        """Record a batch that was trained."""
        if (outage := self._learner) is not None:
            outage.first = outage.first or row.batch
            if row.batch >= self._newest:
                spent = row.time.wait_s + row.time.stats_s + row.time.update_s
                at = row.time.at if row.batch == self._newest else row.time.at - spent
                self._close(outage, max(at, outage.began))
                self._learner = None
        if self._learner is None:
            self._newest, self._trained_at = row.batch, row.time.at

    def actors(self, placed: PlacementRecord) -> None:
        """Record the command's actors."""
        serving = {name for name, actor in placed.actors.items() if actor.state == "serving"}
        lost = self._serving - placed.actors.keys()
        self._actors += [_Outage("actor", name, self._clock()) for name in sorted(lost)]
        for _ in serving - self._serving:
            if self._actors:
                self._close(self._actors.pop(0))
        self._serving = serving

    def end(self) -> None:
        """Record that the run has ended, and with it every outage."""
        for outage in (self._broker, self._learner, *self._actors):
            self._close(outage)
        self._broker, self._learner, self._actors = None, None, []

    def _close(self, outage: _Outage | None, at: float | None = None) -> None:
        if outage is None:
            return
        again = self._newest - outage.first + 1 if outage.first else 0
        self._lines.append(
            OutageRow(
                role=outage.role,
                name=outage.name,
                began=outage.began,
                ended=self._clock() if at is None else at,
                batches=max(again, 0),
            )
        )
