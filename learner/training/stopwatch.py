"""Measurement of where a run's time goes."""

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager


class Stopwatch:
    """Seconds by activity, since the last `take`."""

    def __init__(self) -> None:
        self.started = time.monotonic()
        self._seconds: defaultdict[str, float] = defaultdict(float)

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Count the time spent inside as `name`."""
        began = time.monotonic()
        try:
            yield
        finally:
            self.add(name, time.monotonic() - began)

    def add(self, name: str, seconds: float) -> None:
        """Count `seconds` as `name`."""
        self._seconds[name] += seconds

    def take(self) -> dict[str, float]:
        """Return all counts and begin again at 0."""
        seconds = dict(self._seconds)
        self._seconds.clear()
        return seconds

    @property
    def total_s(self) -> float:
        """Seconds since this was made."""
        return time.monotonic() - self.started
