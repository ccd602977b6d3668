"""A process that outlives the command and ends whatever the command left behind, however the command itself ended.

Ray's agents, an engine's workers or a reward's children survive the death of those who started them, or notice it late.
All of them inherit the environment, so the guard finds them by a mark in it; those that overwrite their environment are
named to it while they still can be found. It waits for the end of a pipe that only the command holds. Knows processes,
not what they are for.
"""

import contextlib
import os
import secrets
import subprocess
import sys
from collections.abc import Iterable, Iterator

import psutil

from isentrope.environment import COMMAND_MARK

_ROUNDS = 10


class Guard:
    """The command's side. Everything started after it was made, and not detached from our environment, is guarded."""

    def __init__(self) -> None:
        mark = secrets.token_hex(16)
        os.environ[COMMAND_MARK] = mark
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, mark],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            start_new_session=True,  # signals of the terminal are not for it
            text=True,
        )

    def watch(self, processes: Iterable[psutil.Process]) -> None:
        """Name processes that may lose the mark."""
        assert self._process.stdin is not None
        for process in processes:
            self._process.stdin.write(f"{process.pid}\n")
        self._process.stdin.flush()

    def close(self) -> None:
        """End what is left, at once."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def main(mark: str) -> None:
    """Wait for the command's end, then kill until nothing bears the mark."""
    named: list[psutil.Process] = []
    for line in sys.stdin:
        with contextlib.suppress(psutil.NoSuchProcess):
            named.append(psutil.Process(int(line)))
    left = named
    for _ in range(_ROUNDS):
        left += _marked(mark)
        if not left:
            return
        for process in left:
            with contextlib.suppress(psutil.Error):  # gone; or its number belongs to another process by now
                process.kill()
        psutil.wait_procs(left, timeout=1.0)
        left = []  # what was born while others were being killed comes next


def _marked(mark: str) -> Iterator[psutil.Process]:
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.pid != os.getpid() and process.environ().get(COMMAND_MARK) == mark:
                yield process


if __name__ == "__main__":
    main(sys.argv[1])
