"""A process that outlives the command and ends whatever the command left behind, however the command itself ended.

Ray's agents, an engine's workers or a reward's children survive the death of those who started them, or notice it late.
The guard notes the command's descendants while it lives, and finds those that came last by a mark in the environment,
which all inherit (some overwrite it, hence the notes). It waits for the end of a pipe that only the command holds.
Knows processes, not what they are for.
"""

import contextlib
import os
import secrets
import select
import subprocess
import sys
from collections.abc import Iterator

import psutil

from isentrope.environment import COMMAND_MARK

_LOOK_S = 2.0
_ROUNDS = 10


class Guard:
    """The command's side. Everything started after it was made, and not detached from our environment, is guarded."""

    def __init__(self) -> None:
        mark = secrets.token_hex(16)
        os.environ[COMMAND_MARK] = mark
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, mark, str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            start_new_session=True,  # signals of the terminal are not for it
        )

    def close(self) -> None:
        """End what is left, at once."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def main(mark: str, command: int) -> None:
    """Wait for the end of the process `command`, then kill what it has left."""
    left = list(_descendants(command))
    for _ in range(_ROUNDS):
        left = [process for process in (*left, *_marked(mark)) if not _is_child(process, command)]
        if not left:
            return
        for process in left:
            with contextlib.suppress(psutil.Error):  # gone; or its number belongs to another process by now
                process.kill()
        psutil.wait_procs(left, timeout=1.0)
        left = []  # what was born while others were being killed comes next


def _is_child(process: psutil.Process, command: int) -> bool:
    """A command that is alive looks after its own children itself."""
    try:
        return bool(process.ppid() == command)
    except psutil.Error:
        return False


def _descendants(command: int) -> set[psutil.Process]:
    """Returns when the command is gone, with the processes below it that are still there."""
    found: set[psutil.Process] = set()
    while not select.select([sys.stdin], [], [], _LOOK_S)[0]:
        with contextlib.suppress(psutil.NoSuchProcess):
            found = {process for process in found if process.is_running()}
            found.update(psutil.Process(command).children(recursive=True))
    return {process for process in found if process.pid != os.getpid()}


def _marked(mark: str) -> Iterator[psutil.Process]:
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.pid != os.getpid() and process.environ().get(COMMAND_MARK) == mark:
                yield process


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
