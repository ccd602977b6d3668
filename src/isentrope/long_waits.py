"""The line that tells of a long wait: once, before ten seconds have passed, with what is waited for and of whom."""

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator

SAY_S = 8.0
"""Time after which a wait is told."""

AGAIN_S = 60.0
"""Time in which the same line is told once: many tasks may wait for the same."""

logger = logging.getLogger(__name__)


def log(text: str) -> None:
    """Log a line."""
    logger.info("%s", text)


@contextlib.contextmanager
def waiting_for(what: str, tell: Callable[[str], None] = log) -> Iterator[None]:
    """Tell that `what` is waited for, if the block takes longer than `SAY_S`.

    Args:
        what: names the party, with its id.
        tell: takes the line. It is called in another thread, in a coroutine by the event loop.
    """
    timer: asyncio.TimerHandle | threading.Timer
    try:
        timer = asyncio.get_running_loop().call_later(SAY_S, _TOLD.once, what, tell)
    except RuntimeError:  # no event loop runs here
        timer = threading.Timer(SAY_S, _TOLD.once, (what, tell))
        timer.daemon = True
        timer.start()
    try:
        yield
    finally:
        timer.cancel()


class _Told:
    """Lines of the last `AGAIN_S`."""

    def __init__(self) -> None:
        self._at: dict[str, float] = {}
        self._lock = threading.Lock()

    def once(self, what: str, tell: Callable[[str], None]) -> None:
        """Tell it, unless that has been done lately."""
        now = time.monotonic()
        with self._lock:
            self._at = {each: at for each, at in self._at.items() if now - at < AGAIN_S}
            if what in self._at:
                return
            self._at[what] = now
        tell(f"waiting for {what}")


_TOLD = _Told()
