"""Times of the last run of each of the feeder's periodic steps, and of its last progress."""

import time
from dataclasses import dataclass, field


@dataclass(slots=True)
class Clocks:
    """The clocks of one feeder."""

    progressed_at: float = field(default_factory=time.monotonic)
    done_at: dict[str, float] = field(default_factory=dict)
    lwm: int = -1
    lwm_since: float = 0.0

    def progress(self) -> None:
        """Record that there is progress now."""
        self.progressed_at = time.monotonic()

    def quiet_s(self) -> float:
        """Return the seconds since the last progress."""
        return time.monotonic() - self.progressed_at

    def due(self, what: str, every_s: float) -> bool:
        """Return True if it is time again for `what`; if so, restart its clock."""
        now = time.monotonic()
        if now - self.done_at.get(what, -every_s) < every_s:
            return False
        self.done_at[what] = now
        return True

    def stands_still(self, lwm: int, limit_s: float) -> bool:
        """Return True, once in `limit_s`, if there was no progress for longer than that, or if every call since then
        was given the same low watermark: a group that is lost holds it back while others come."""
        now = time.monotonic()
        if lwm != self.lwm:
            self.lwm, self.lwm_since = lwm, now
        return max(self.quiet_s(), now - self.lwm_since) > limit_s and self.due("still", limit_s)
