"""The end of a child process with its parent, even if that is killed: for processes whose first lines are ours.

Others need a process beside them that waits for the end of a pipe: `reward_keeper.py`, because what a reward starts
must end too, `redis_server.py`, whose server must be asked to end and whose folder must go, and `launch/guard.py`,
because Ray starts processes with first lines of its own.
"""

import ctypes
import os
import signal

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
