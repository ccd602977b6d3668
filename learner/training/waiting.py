"""Patience of rank 0: keeps the other ranks company while it waits, measures where time goes, and gives up with a name.

Knows clocks and who can be asked what is missing; not what is waited for.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from isentrope.errors import StalledError
from isentrope.learner.training.rank_group import Team

SLICE_S = 1.0
"""Longest wait between two idle orders, and between two looks at what an operator asks for."""


class Stopwatch:
    """Seconds by what they were spent on, since the last `take`."""

    def __init__(self) -> None:
        self.started = time.monotonic()
        self._seconds: defaultdict[str, float] = defaultdict(float)

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Count the time inside as `name`."""
        began = time.monotonic()
        try:
            yield
        finally:
            self.add(name, time.monotonic() - began)

    def add(self, name: str, seconds: float) -> None:
        """Count `seconds` as `name`."""
        self._seconds[name] += seconds

    def take(self) -> dict[str, float]:
        """All counts; they begin again at 0."""
        seconds = dict(self._seconds)
        self._seconds.clear()
        return seconds

    @property
    def total_s(self) -> float:
        """Seconds since this was made."""
        return time.monotonic() - self.started


class Wait:
    """One wait for others. Call `tick` at least every `SLICE_S` seconds."""

    def __init__(self, team: Team, timeout_s: float, why: Callable[[], str], what: str) -> None:
        """Args:
        team: kept company.
        timeout_s: how long nothing may move.
        why: names the culprit.
        what: is waited for.
        """
        self._team = team
        self._timeout_s = timeout_s
        self._why = why
        self._what = what
        self._moved = time.monotonic()

    def progress(self) -> None:
        """Something came: the deadline begins again."""
        self._moved = time.monotonic()

    def tick(self) -> None:
        """Once more nothing. StalledError after the deadline."""
        self._team.idle()
        quiet_s = time.monotonic() - self._moved
        if quiet_s > self._timeout_s:
            raise StalledError(
                f"nothing has moved for {quiet_s:.0f} s: {self._why()}",
                where=f"waiting for {self._what}",
                fix="see logs/ of whoever is named; learner.stall_timeout_s is the limit",
            )
