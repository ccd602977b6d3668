"""Places at which a test can kill a process at exactly that moment."""

import os
import signal

VARIABLE = "ISENTROPE_CRASH_AT"
"""`<place>` or `<place>:<batch>`, as `commit.before_pointer:3`; unset: nothing ever happens."""


def crash_point(place: str, batch: int) -> None:
    """Kill this process, as `kill -9` would, if the environment names this place."""
    if os.environ.get(VARIABLE) in (place, f"{place}:{batch}"):
        os.kill(os.getpid(), signal.SIGKILL)
