"""The end of a child process with its parent, and of what the child has started with the child, even if they are
killed: for processes whose first lines are ours.

Two others need a process beside them that waits for the end of a pipe: `redis_server.py`, whose server must be asked to
end and whose folder must go, and `launch/guard.py`, because Ray starts processes with first lines of its own.
"""

import contextlib
import ctypes
import os
import select
import signal
from typing import NoReturn

_PR_SET_PDEATHSIG = 1


def end_with_parent(parent_pid: int) -> None:
    """Let the kernel kill this process when the thread that started it ends; call first thing in the child.

    Args:
        parent_pid: process that started this one; if it is gone already, this one ends at once.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent_pid:
        os.kill(os.getpid(), signal.SIGKILL)


def lead_session() -> None:
    """Start a session, of which everything is killed once this process has ended, whatever ended it.

    A process that the session's processes start belongs to it, unless it begins one of its own. Call this before
    threads are started: it forks a process, which waits.
    """
    os.setsid()
    leader = os.getpid()
    try:
        end = os.pidfd_open(leader)
    except OSError:  # Linux before 5.3: what is left ends with the command (`guard.py`)
        return
    child = os.fork()
    if child == 0:
        try:
            os.setsid()
            if os.fork() == 0:  # a process that is not our child: code that waits for all its children does not see it
                _kill_when_ended(leader, end)
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    os.close(end)


def _kill_when_ended(leader: int, end: int) -> NoReturn:
    try:
        for descriptor in os.listdir("/proc/self/fd"):
            if int(descriptor) != end:
                with contextlib.suppress(OSError):  # that of the list itself
                    os.close(int(descriptor))
        ended = select.poll()
        ended.register(end, select.POLLIN)
        ended.poll()
        os.killpg(leader, signal.SIGKILL)
    finally:
        os._exit(0)
