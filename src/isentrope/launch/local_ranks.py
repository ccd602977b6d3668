"""Ranks as processes of this machine alone, which meet through a file: without a broker, and without Ray."""

import contextlib
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Generic, Self, TypeVar

from isentrope.environment import gpu_count, with_variables
from isentrope.errors import ConfigError, InternalError, IsentropeError
from isentrope.launch import logs
from isentrope.launch.interrupts import SIGNALS
from isentrope.learner.config import LearnerConfig

if TYPE_CHECKING:
    from multiprocessing.queues import SimpleQueue

GRACE_S = 1.0
"""Time that the other ranks have to end by themselves when one has died."""

R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class _Meeting:
    """The group that a rank joins. logs: folder of the ranks' logs; None: they log as this process does."""

    ranks: int
    timeout_s: float
    file: Path
    logs: Path | None


class LocalRanks(Generic[R]):
    """All ranks of one learner, which run the same function; a context manager, at whose end none is left."""

    def __init__(self, config: LearnerConfig, body: Callable[[], R], place: Path, log_folder: Path | None) -> None:
        """Start them.

        Args:
            config: the learner's.
            body: what each rank runs; rank 0's result counts.
            place: folder in which they meet, of this start alone.
            log_folder: gets `learner-<rank>.log`; None: they log as this process does.

        Raises:
            ConfigError: this machine has GPUs, and too few.
        """
        import torch.multiprocessing
        from torch.multiprocessing.spawn import start_processes

        if 0 < gpu_count() < config.ranks:
            raise ConfigError(
                f"learner.ranks = {config.ranks}, and this machine has {gpu_count()} GPUs",
                where="learner.ranks",
                fix="start it on a machine with a GPU for each rank; sums over ranks are rounded in their order",
            )
        meeting = _Meeting(config.ranks, config.collective_timeout_s, place / "meeting", log_folder)
        self._results: SimpleQueue[R | IsentropeError] = torch.multiprocessing.get_context("spawn").SimpleQueue()
        with _interrupts_held():
            started = start_processes(
                _rank, (meeting, body, self._results), config.ranks, join=False, start_method="spawn"
            )
        assert started is not None, "they were not waited for"
        self._processes = started
        self._log_folder = log_folder

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        for process in filter(None, self._processes.processes):  # torch's annotation allows None
            process.kill()

    def wait(self, timeout_s: float | None) -> bool:
        """Wait for the end, at most about this long; return True if all have ended. InternalError if one was killed:
        then all have ended."""
        from torch.multiprocessing.spawn import ProcessExitedException

        try:
            while not (ended := self._processes.join(timeout_s, GRACE_S)) and timeout_s is None:
                pass  # one has ended, and others go on
            return bool(ended)
        except ProcessExitedException as error:
            raise InternalError(
                f"a rank has died ({error}), and the others were ended",
                where=str(self._log_folder or ""),
                fix="start the same command again",
            ) from None

    def result(self) -> R:
        """Return what rank 0 has returned, or raise its error; call it when all have ended."""
        found = self._results.get()
        if isinstance(found, IsentropeError):
            raise found
        return found


def _rank(rank: int, meeting: _Meeting, body: Callable[[], R], results: "SimpleQueue[R | IsentropeError]") -> None:
    """Run one rank; rank 0 puts what comes out."""
    import torch.distributed as dist

    _leave_interrupts_to_command()
    if meeting.logs is not None:
        logs.to_file(meeting.logs / f"learner-{rank}.log")
    with with_variables({"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(meeting.ranks)}):
        dist.init_process_group(
            "nccl" if gpu_count() else "gloo",
            init_method=f"file://{meeting.file}",
            rank=rank,
            world_size=meeting.ranks,
            timeout=timedelta(seconds=meeting.timeout_s),
        )
        found: R | IsentropeError
        try:
            found = body()
        except IsentropeError as error:
            found = error
        if rank == 0:
            results.put(found)
        dist.destroy_process_group()


@contextlib.contextmanager
def _interrupts_held() -> Iterator[None]:
    """Hold interrupts back from this thread, and from processes that it starts until they handle them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _leave_interrupts_to_command() -> None:
    """Let interrupts, which a terminal or a scheduler sends to all processes, be the command's alone; the system sends
    one when the command dies."""
    command = multiprocessing.parent_process()

    def obey(number: int, frame: FrameType | None) -> None:
        if command is None or os.getppid() != command.pid:
            os._exit(1)

    for number in SIGNALS:
        signal.signal(number, obey)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    obey(0, None)
