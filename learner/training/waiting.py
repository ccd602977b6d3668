"""Waits of rank 0 for other processes: `idle` orders to the other ranks meanwhile, and a deadline without progress."""

import logging
import time
from collections.abc import Callable

from isentrope.errors import StalledError
from isentrope.learner.training.rank_group import RankGroup
from isentrope.long_waits import SAY_S

SLICE_S = 1.0
"""Longest wait between two idle orders, and between two reads of an operator's request."""

logger = logging.getLogger(__name__)


class StopAsked(Exception):
    """An operator wants the run to end, and what was waited for is not waited for any more."""


class Wait:
    """One wait of rank 0 for other processes. Call `tick` at least every `SLICE_S` seconds."""

    def __init__(
        self,
        rank_group: RankGroup,
        timeout_s: float,
        why: Callable[[], str],
        what: str,
        stop_asked: Callable[[], bool] = lambda: False,
    ) -> None:
        """Start the deadline.

        Args:
            rank_group: gets an `idle` order at every tick.
            timeout_s: longest time without progress.
            why: names what is late.
            what: what is waited for.
            stop_asked: reads, every `SLICE_S`, whether the wait is to be cut short because the run is to end.
        """
        self._rank_group = rank_group
        self._timeout_s = timeout_s
        self._why = why
        self._what = what
        self._moved = time.monotonic()
        self._said = False
        self._stop_asked = stop_asked
        self._asked_at = self._moved

    def progress(self) -> None:
        """Restart the deadline, because something arrived."""
        self._moved = time.monotonic()

    def tick(self) -> None:
        """Send an `idle` order.

        Raises:
            StopAsked: an operator wants the run to end.
            StalledError: the deadline has passed.
        """
        self._rank_group.idle()
        now = time.monotonic()
        if now - self._asked_at >= SLICE_S:
            self._asked_at = now
            if self._stop_asked():
                logger.info("not waiting for %s any more: the run is to end", self._what)
                raise StopAsked
        quiet_s = now - self._moved
        if quiet_s > SAY_S and not self._said:
            self._said = True
            logger.info("waiting for %s: %s", self._what, self._why())
        if quiet_s > self._timeout_s:
            raise StalledError(
                f"no progress for {quiet_s:.0f} s: {self._why()}",
                where=f"waiting for {self._what}",
                fix="see the logs of the process named; learner.stall_timeout_s is the limit",
            )
