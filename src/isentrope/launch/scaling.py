"""Number of actors that a run should have, and choice of the one that leaves. Pure: no Ray, no broker, no clock."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from isentrope.learner.records import BatchRow

OWN_ID = re.compile(r"a(\d+)(\.\d+)?")
"""Id of an actor that a command has started; after a point follows the number of times that it lost its leases."""

BATCHES = 3
"""Batches whose idle time, and looks at admission, decide."""

IDLE = 0.2
"""Share of their time that the learner waited, above which one actor more is wanted."""

CLOSED = 0.5
"""Share of looks in which admission was closed, above which one actor less is wanted."""

REST = 2
"""Batches after a change in which nothing is changed, because its effect is still to come."""


@dataclass(frozen=True, slots=True)
class Seat:
    """An actor that may be asked to leave."""

    number: int
    """Its place in the order of starts."""
    serves: bool
    leases: int


def next_to_leave(seats: Iterable[Seat]) -> Seat:
    """Return the one whose leaving costs least: it does not serve yet, else is the newest, else has fewest leases."""
    return min(seats, key=lambda seat: (seat.serves, -seat.number, seat.leases))


@dataclass(frozen=True, slots=True)
class Step:
    """A decision to have one actor more or less."""

    by: int
    """1 or -1."""
    idle: float
    """Share of the last batches' time in which the learner waited for groups."""
    closed: float
    """Share of looks during the last batches in which no order was admitted."""


class Lag:
    """Decisions by how far actors lag behind the learner, or run ahead of it: at most one step for a batch."""

    def __init__(self, least: int, most: int) -> None:
        self._least = least
        self._most = most
        self._rows: list[BatchRow] = []
        self._looks: list[list[bool]] = [[]]  # of each batch, the one that is trained now last
        self._rest = 0

    def look(self, closed: bool) -> None:
        """Count a look at admission, which is closed or not."""
        self._looks[-1].append(closed)

    def batch(self, row: BatchRow, actors: int, *, waits: bool) -> Step | None:
        """Return the step that a trained batch calls for; None: none.

        actors: those that are wanted now. waits: one of them waits for room, so that another would only wait too.
        """
        if self._rows and row.time.seconds_total < self._rows[-1].time.seconds_total:
            self._rows.clear()  # of a learner that was started again
        self._rows = [*self._rows[-BATCHES:], row]
        idle, closed = self._idle(), self._closed()
        self._looks.append([])
        self._rest = max(0, self._rest - 1)
        if self._rest or len(self._rows) <= BATCHES:
            return None
        if idle > IDLE and not waits and actors < self._most:
            by = 1
        elif closed > CLOSED and actors > self._least:
            by = -1
        else:
            return None
        self._rest = REST + 1
        return Step(by, idle, closed)

    def _idle(self) -> float:
        first, last = self._rows[0].time.seconds_total, self._rows[-1].time.seconds_total
        return sum(row.time.wait_s for row in self._rows[1:]) / (last - first) if last > first else 0.0

    def _closed(self) -> float:
        self._looks = self._looks[-BATCHES:]
        looks = [look for batch in self._looks for look in batch]
        return sum(looks) / max(1, len(looks))
