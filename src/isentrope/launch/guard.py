"""A process that outlives the command and ends all processes the command has left, even if the command was killed.

Ray's agents, an engine's workers or a reward's children survive their parent, or notice its death late. The guard
records the command's descendants while it runs, and finds the newest by a mark in the environment, which all inherit
(some overwrite it, hence the records). It waits for the end of a pipe that only the command holds.
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
from isentrope.launch.temporary import delete_left

_LOOK_S = 2.0
_ROUNDS = 10


class Guard:
    """The command's side. Every process started after it, and not detached from our environment, is guarded."""

    def __init__(self) -> None:
        mark = secrets.token_hex(16)
        os.environ[COMMAND_MARK] = mark
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, mark, str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            start_new_session=True,  # keeps the terminal's signals away
        )

    def close(self) -> None:
        """End the remaining processes at once."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def main(mark: str, command: int) -> None:
    """Wait for the end of the process `command`, then kill the processes it has left, and delete their folders."""
    _kill_left(mark, command)
    delete_left()


def _kill_left(mark: str, command: int) -> None:
    left = list(_descendants(command))
    for _ in range(_ROUNDS):
        left = [process for process in (*left, *_marked(mark)) if not _is_child(process, command)]
        if not left:
            return
        for process in left:
            with contextlib.suppress(psutil.Error):  # gone; or its id belongs to another process by now
                process.kill()
        psutil.wait_procs(left, timeout=1.0)
        left = []  # processes started meanwhile come next


def _is_child(process: psutil.Process, command: int) -> bool:
    """Return True for a child of a live command, which ends its children itself."""
    try:
        return bool(process.ppid() == command)
    except psutil.Error:
        return False


def _descendants(command: int) -> set[psutil.Process]:
    """Wait until the command is gone; return its descendants that still run."""
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
