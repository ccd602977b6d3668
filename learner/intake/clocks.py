"""Times of the last run of each of the feeder's periodic steps, and of its last progress."""

import time
from dataclasses import dataclass, field


@dataclass(slots=True)
class Clocks:
    """The clocks of one feeder."""

    progressed_at: float = field(default_factory=time.monotonic)
    done_at: dict[str, float] = field(default_factory=dict)

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
