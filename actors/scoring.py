"""Reward functions in their own processes: one that hangs is killed, one that crashes is replaced, output is logged.

The user's code is imported in those processes alone, and nothing that they send is more than data (`reward_wire.py`).
"""

import asyncio
import contextlib
import logging
import multiprocessing
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from signal import Signals
from typing import Self

from isentrope.actors.reward_box import Box
from isentrope.actors.reward_keeper import Ending
from isentrope.actors.reward_process import GarbageError, ProcessEndedError, RewardProcess
from isentrope.actors.reward_wire import Answer, Call, to_outcome
from isentrope.errors import RewardError
from isentrope.long_waits import waiting_for
from isentrope.rollout.config import DataConfig
from isentrope.rollout.data.rows import Messages, Row
from isentrope.rollout.rewards.functions import Outcome, Score

LOAD_TIMEOUT_S = 300.0
"""Time limit of importing the reward functions; long, because a reward may load a model."""

MAX_OUTPUT_BYTES = 1 << 14
"""Maximum output of the reward functions in one call; more is dropped."""

_log = logging.getLogger(__name__)


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
        self._box = Box(data, Path(run_folder))
        self._workers = [_Worker(self._box, self._writer.fileno()) for _ in range(workers)]
        self._idle: asyncio.Queue[_Worker] = asyncio.Queue()

    async def __aenter__(self) -> Self:
        """Start the workers.

        Raises:
            ConfigError: the sandbox that was asked for cannot be had on this machine.
            RewardError: the functions cannot be imported.
        """
        self._output.open()
        try:
            await asyncio.to_thread(self._box.require)
            await asyncio.gather(*(worker.load() for worker in self._workers))
        except BaseException:
            await self.__aexit__()
            raise
        for worker in self._workers:
            self._idle.put_nowait(worker)
        return self

    async def __aexit__(self, *exc: object) -> None:
        await asyncio.gather(*(worker.close() for worker in self._workers))
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
        answer = await self._call("score", prompts, completions, columns)
        if len(answer.outcomes) != len(completions):
            raise RewardError(f"the reward's process gave {len(answer.outcomes)} outcomes of {len(completions)}")
        return [to_outcome(each) for each in answer.outcomes]

    async def probe(self, row: Row) -> list[Score]:
        """Score made-up responses to `row`, to test before a run that the functions work; return their scores."""
        outcomes = map(to_outcome, (await self._call("probe", row)).outcomes)
        return [outcome for outcome in outcomes if isinstance(outcome, Score)]

    async def columns(self) -> set[str]:
        """Return the columns of the data that the functions name."""
        return set((await self._call("columns")).columns)

    async def _call(self, call: Call, *arguments: object) -> Answer:
        with waiting_for("a free process of the reward: all work on other groups"):
            worker = await self._idle.get()
        try:
            await worker.load()
            self._output.renew()
            return await worker.run(call, *arguments, deadline=self._deadline)
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
    """One process and its replacements."""

    def __init__(self, box: Box, output: int) -> None:
        self._box = box
        self._output = output
        self._process: RewardProcess | None = None
        self._loaded = False

    async def load(self) -> None:
        """Import the reward functions, unless the present process has: a call's deadline does not include it."""
        if self._process is None or self._process.is_over:
            await self.close()
            self._process = await RewardProcess.start(self._box, self._output)
        if not self._loaded:
            await self.run("load", self._box.data, self._box.run_folder, sys.path, deadline=_LOADING)
            self._loaded = True

    async def run(self, call: Call, *arguments: object, deadline: _Deadline) -> Answer:
        """Return the answer of the process. Any exit but the regular one, or with the functions' own error, ends it."""
        assert self._process is not None, "load comes first"
        answer: Answer | None = None
        try:
            with waiting_for(f"{deadline.what}, which may take {deadline.seconds:g} s"):
                async with asyncio.timeout(deadline.seconds):
                    answer = await self._process.ask(call, *arguments)
        except TimeoutError as error:
            raise RewardError(
                f"{deadline.what} took more than {deadline.seconds:g} s, and its process was killed", fix=deadline.fix
            ) from error
        except ProcessEndedError as error:
            raise RewardError(f"{deadline.what} {_cause(error.ending)}") from error
        except GarbageError as error:
            raise RewardError(
                f"{deadline.what} wrote into the pipe of its process's answers: {error}",
                fix="print to the standard output, and leave open descriptors alone",
            ) from error
        finally:
            if answer is None:
                self._process.abandon()
                self._loaded = False
        assert answer is not None
        if answer.failed is not None:
            raise answer.failed.error()
        return answer

    async def close(self) -> None:
        """Kill the process, and wait until it is gone with all that it has started."""
        process, self._process, self._loaded = self._process, None, False
        if process is not None:
            process.abandon()
            await process.gone()


def _cause(ending: Ending | None) -> str:
    if ending is None:
        return "ended with the process that watches it, which was killed or did not start"
    if ending.reason:
        return f"took {ending.reason}, and was killed"
    code = ending.exit_code
    return f"ended its process ({f'signal {Signals(-code).name}' if code < 0 else f'exit code {code}'})"


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
