"""Reward functions in their own processes: one that hangs is killed, one that crashes is replaced, output is logged.

The user's code is imported in those processes alone.
"""

import asyncio
import contextlib
import logging
import multiprocessing
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import cache
from io import TextIOWrapper
from multiprocessing.connection import Connection
from pathlib import Path
from signal import Signals
from typing import Self, TypeVar

from pebble import ProcessExpired, ProcessPool

from isentrope.actors.die_with_parent import end_with_parent, lead_session
from isentrope.errors import RewardError
from isentrope.rollout.config import DataConfig
from isentrope.rollout.data.rows import Messages, Row
from isentrope.rollout.rewards.functions import Outcome, RewardSet, Score, load_rewards, probe

LOAD_TIMEOUT_S = 300.0
"""Time limit of importing the reward functions; long, because a reward may load a model."""

MAX_OUTPUT_BYTES = 1 << 14
"""Maximum output of the reward functions in one call; more is dropped."""

_log = logging.getLogger(__name__)
_T = TypeVar("_T")


class Scorer:
    """Worker processes that score responses; an async context manager.

    Entering starts the workers and imports the reward functions there. A worker that misses the deadline or dies fails
    its own call only, and is replaced before its next one. `score` may be called from many tasks at once.
    """

    def __init__(self, data: DataConfig, run_folder: str, *, workers: int = 1) -> None:
        self._deadline = _Deadline(
            data.reward_timeout_s, "the reward", "make the function faster, or raise data.reward_timeout_s"
        )
        reader, self._writer = multiprocessing.Pipe(duplex=False)
        self._output = _Output(reader)
        setup = (data, Path(run_folder), self._writer, os.getpid())
        self._workers = [_Worker(setup) for _ in range(workers)]
        self._idle: asyncio.Queue[_Worker] = asyncio.Queue()

    async def __aenter__(self) -> Self:
        self._output.open()
        try:
            await asyncio.gather(*(worker.load() for worker in self._workers))
        except BaseException:
            await self.__aexit__()
            raise
        for worker in self._workers:
            self._idle.put_nowait(worker)
        return self

    async def __aexit__(self, *exc: object) -> None:
        await asyncio.gather(*(asyncio.to_thread(worker.close) for worker in self._workers))
        self._writer.close()
        self._output.close()

    async def score(
        self,
        prompts: Sequence[str | Messages],
        completions: Sequence[str],
        columns: Mapping[str, Sequence[object]],
    ) -> list[Outcome]:
        """Return one outcome for each completion; the arguments are those of `RewardSet`.

        Raises:
            RewardError: a function failed, gave no completion a reward, missed the deadline, or killed its process.
        """
        return await self._call(_score, prompts, completions, columns)

    async def probe(self, row: Row) -> list[Score]:
        """Score made-up responses to `row`, to test before a run that the functions work; return their scores."""
        return await self._call(_probe, row)

    async def columns(self) -> set[str]:
        """Return the columns of the data that the functions name."""
        return await self._call(_columns)

    async def _call(self, function: Callable[..., _T], *arguments: object) -> _T:
        worker = await self._idle.get()
        try:
            await worker.load()
            self._output.renew()
            return await worker.run(function, *arguments, deadline=self._deadline)
        finally:
            self._idle.put_nowait(worker)


@dataclass(frozen=True, slots=True)
class _Deadline:
    """Time limit of one activity, with the advice to give when it is exceeded."""

    seconds: float
    what: str
    fix: str


_LOADING = _Deadline(LOAD_TIMEOUT_S, "importing the reward functions", "move what is slow or waits out of the module")


class _Worker:
    """One process and its replacements. Pools of one, because only then it is known which process a call gets."""

    def __init__(self, setup: tuple[DataConfig, Path, Connection, int]) -> None:
        self._setup = setup
        self._pool = self._new_pool()
        self._loaded = False

    async def load(self) -> None:
        """Import the reward functions, unless the present process has: a call's deadline does not include it."""
        if not self._loaded:
            await self.run(_load, deadline=_LOADING)
            self._loaded = True

    async def run(self, function: Callable[..., _T], *arguments: object, deadline: _Deadline) -> _T:
        """Return `function(*arguments)`, computed in the process."""
        if not self._pool.active:  # the process died between two calls
            await asyncio.to_thread(self.close)
            self._pool = self._new_pool()
        call = self._pool.schedule(function, args=arguments, timeout=deadline.seconds)
        self._loaded, loaded = False, self._loaded  # any exit but the regular one ends the process
        try:
            result = await asyncio.wrap_future(call)
        except TimeoutError as error:
            raise RewardError(
                f"{deadline.what} took more than {deadline.seconds:g} s, and its process was killed", fix=deadline.fix
            ) from error
        except ProcessExpired as error:
            raise RewardError(f"{deadline.what} ended its process ({_cause(error.exitcode)})") from error
        except BrokenProcessPool as error:
            raise RewardError(f"the process for {deadline.what} ended before it could begin") from error
        except RewardError:
            self._loaded = loaded
            raise
        self._loaded = loaded
        return result

    def close(self) -> None:
        """Kill the process; blocks until it is gone."""
        self._pool.stop()  # type: ignore[no-untyped-call]
        self._pool.join()

    def _new_pool(self) -> ProcessPool:
        context = multiprocessing.get_context("spawn")
        return ProcessPool(max_workers=1, initializer=_start, initargs=self._setup, context=context)


def _cause(exitcode: int) -> str:
    return f"signal {Signals(-exitcode).name}" if exitcode < 0 else f"exit code {exitcode}"


class _Output:
    """Logger of the processes' output, line by line, up to a limit per call. Runs in the event loop."""

    def __init__(self, reader: Connection) -> None:
        self._reader = reader
        self._left = MAX_OUTPUT_BYTES
        self._line = b""

    def open(self) -> None:
        os.set_blocking(self._reader.fileno(), False)
        asyncio.get_running_loop().add_reader(self._reader.fileno(), self._read)

    def renew(self) -> None:
        """Reset the limit for a new call, and begin a new line."""
        self._left = MAX_OUTPUT_BYTES
        self._flush()

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._reader.fileno())
        with contextlib.suppress(BlockingIOError):  # nothing to read, but a child of a reward still holds the other end
            while self._read():
                pass
        self._flush()
        self._reader.close()

    def _read(self) -> int:
        printed = os.read(self._reader.fileno(), 1 << 16)
        kept = printed[: self._left]
        if self._left and len(kept) < len(printed):
            _log.warning("reward: prints more than %d bytes in one call; the rest is dropped", MAX_OUTPUT_BYTES)
        self._left -= len(kept)
        *lines, self._line = (self._line + kept).split(b"\n")
        for line in lines:
            _log.info("reward: %s", line.decode(errors="replace"))
        return len(printed)

    def _flush(self) -> None:
        if self._line:
            _log.info("reward: %s", self._line.decode(errors="replace"))
            self._line = b""


# Functions that run in a worker process.

_setup: tuple[DataConfig, Path]


def _start(data: DataConfig, run_folder: Path, output: Connection, parent_pid: int) -> None:
    """Prepare the process: end it with its parent, and all it starts with it; redirect its output, give it no input."""
    os.environ["PYTHONSAFEPATH"] = ""  # programs that the functions start find modules beside them again
    end_with_parent(parent_pid)
    lead_session()
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), sys.stdin.fileno())
    for stream in (sys.stdout, sys.stderr):
        os.dup2(output.fileno(), stream.fileno())
        assert isinstance(stream, TextIOWrapper)
        stream.reconfigure(line_buffering=True)  # what is printed before a hang must be seen
    global _setup
    _setup = data, run_folder


@cache
def _rewards() -> RewardSet:
    data, run_folder = _setup
    return load_rewards(data, run_folder=run_folder)


def _load() -> None:
    _rewards()


def _score(
    prompts: Sequence[str | Messages], completions: Sequence[str], columns: Mapping[str, Sequence[object]]
) -> list[Outcome]:
    return _rewards()(prompts, completions, columns)


def _probe(row: Row) -> list[Score]:
    return probe(_rewards(), row)


def _columns() -> set[str]:
    return _rewards().columns
