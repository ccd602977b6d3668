"""The process between an actor and a reward worker, which ends everything that the worker has started.

It is the worker's parent, and the kernel makes it that of every process below whose own parent has ended: also of one
that began a session of its own. It waits for three things, after each of which it kills all of them and ends:
the worker ends; the actor closes its end of a pipe, or is killed; the processes are too many, or take too much memory.
It imports little, because it stays as long as its worker.
"""

import contextlib
import ctypes
import gc
import json
import os
import resource
import select
import signal
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NoReturn

from isentrope.actors.die_with_parent import end_with_parent

LOOK_S = 0.5
"""Seconds between two looks at processes and memory."""

KILL_S = 5.0
"""Time limit of killing all processes: one of another user, by a set-user-id program, cannot be killed."""

_PR_SET_CHILD_SUBREAPER = 36
_PAGE_BYTES = resource.getpagesize()


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of a worker and all that it starts."""

    memory_bytes: int
    """Memory of each process, which the kernel limits, and of all together, which is looked at."""
    processes: int
    """Processes at a time."""
    kernel_counts: bool
    """True: the kernel limits the number of processes too, because it counts those of the worker alone."""


@dataclass(frozen=True, slots=True)
class Ending:
    """The end of a worker, as its keeper reports it."""

    exit_code: int = 0
    """As `subprocess` has it: negative for a signal."""
    reason: str = ""
    """Limit that was exceeded; empty: none, it ended by itself."""


def main(report: int, limits: Limits) -> NoReturn:
    """Start the worker, wait, end all processes, and write an `Ending` to the descriptor `report`."""
    keeper = os.getpid()
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER) failed")
    gc.freeze()
    worker = os.fork()
    if worker == 0:
        os.close(report)
        end_with_parent(keeper)
        os.setsid()
        _limit(limits)
        from isentrope.actors.reward_worker import work

        work()
    with open(os.devnull, "r+b") as nothing:
        for stream in (sys.stdin, sys.stdout, sys.stderr):
            os.dup2(nothing.fileno(), stream.fileno())
    with contextlib.suppress(BrokenPipeError):
        os.write(report, f"{worker}\n".encode())
    ending = _wait(worker, report, limits)
    _end_all(worker)
    with contextlib.suppress(BrokenPipeError):
        os.write(report, json.dumps(asdict(ending)).encode())
    os._exit(0)


def _limit(limits: Limits) -> None:
    """Let the kernel hold this process, and all that it starts, to the limits."""
    # The size of what is private and may be written: what is reserved, or mapped from files, takes no memory.
    resource.setrlimit(resource.RLIMIT_DATA, (limits.memory_bytes, limits.memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if limits.kernel_counts:
        resource.setrlimit(resource.RLIMIT_NPROC, (limits.processes, limits.processes))


def _wait(worker: int, report: int, limits: Limits) -> Ending:
    """Wait until the worker ends, the actor hangs up, or a limit is exceeded."""
    ended = os.pidfd_open(worker)
    look = select.poll()
    look.register(report, 0)  # an error: nobody reads it any more
    look.register(ended, select.POLLIN)
    while not (events := look.poll(LOOK_S * 1000)):
        _reap(worker)
        if reason := _excess(descendants(os.getpid()), limits):
            return Ending(reason=reason)
    if (ended, select.POLLIN) in events:
        return Ending(os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1]))
    return Ending()


def _excess(processes: list[int], limits: Limits) -> str:
    """Return which limit the processes exceed; "" for none."""
    if len(processes) > limits.processes:
        return f"{len(processes)} processes, more than {limits.processes}"
    if sum(map(_resident, processes)) > limits.memory_bytes:  # what several share counts for each of them here
        used = sum(map(_own_share, processes))
        if used > limits.memory_bytes:
            return f"{used / 2**30:.1f} GiB of memory, more than {limits.memory_bytes / 2**30:g}"
    return ""


def _resident(process: int) -> int:
    return int((_read(f"/proc/{process}/statm").split() or ["0", "0"])[1]) * _PAGE_BYTES


def _own_share(process: int) -> int:
    """Return the memory of a process in bytes; of what it shares with others, its part."""
    found = (line.split() for line in _read(f"/proc/{process}/smaps_rollup").splitlines())
    return next((int(words[1]) * 1024 for words in found if words[0] == "Pss:"), 0)


def descendants(process: int) -> list[int]:
    """Return the live processes below a process, parents before their children."""
    found, looked_at = [process], 0
    while looked_at < len(found):
        above = found[looked_at]
        looked_at += 1
        for task in _tasks(above):
            found += map(int, _read(f"/proc/{above}/task/{task}/children").split())
    return [each for each in found[1:] if _read(f"/proc/{each}/stat").rpartition(")")[2][1:2] not in ("Z", "")]


def _tasks(process: int) -> list[str]:
    try:
        return os.listdir(f"/proc/{process}/task")
    except OSError:
        return []


def _read(path: str) -> str:
    """Return the text of a file of /proc; "" if the process is gone."""
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return ""


def _end_all(worker: int) -> None:
    """Kill everything below this process, until nothing is left."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(worker, signal.SIGKILL)  # at one moment: what forks meanwhile is killed too
    deadline = time.monotonic() + KILL_S
    while time.monotonic() < deadline:
        left = descendants(os.getpid())
        for process in left:
            with contextlib.suppress(OSError):
                os.kill(process, signal.SIGKILL)
        if not left and not _reap():
            return
        time.sleep(0.001)


def _reap(worker: int = 0) -> bool:
    """Take notice of children that have ended, but for the worker; return True if any are left."""
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) is not None:
            if ended.si_pid == worker:
                return True
            os.waitpid(ended.si_pid, 0)
        return True
    return False


if __name__ == "__main__":
    main(int(sys.argv[1]), Limits(int(sys.argv[2]), int(sys.argv[3]), sys.argv[4] == "kernel"))
