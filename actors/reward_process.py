"""One process that runs reward functions, seen from its actor: start, calls, end."""

import asyncio
import contextlib
import json
import os
import pickle
import signal
import socket
import subprocess
from typing import Self

from isentrope.actors.reward_box import Box
from isentrope.actors.reward_keeper import Ending
from isentrope.actors.reward_wire import LENGTH_BYTES, MAX_ANSWER_FRAME_BYTES, Answer, Call
from isentrope.actors.reward_worker import Request

END_S = 10.0
"""Time a keeper may take to end what its worker has started; one that a reward has stopped is killed then."""

MAX_REPORT_BYTES = 1 << 12

BUFFER_BYTES = 1 << 20
"""Part of an answer that is read before somebody asks for it."""


class ProcessEndedError(Exception):
    """The process ended before it answered. ending: how; None: nobody reported it, its keeper was killed."""

    def __init__(self, ending: Ending | None) -> None:
        super().__init__(ending)
        self.ending = ending


class GarbageError(Exception):
    """The process wrote something that is not the answer to its call."""


class RewardProcess:
    """A process and its keeper. `start` makes one; `abandon` ends it at once, `gone` waits for that."""

    def __init__(
        self,
        popen: "subprocess.Popen[bytes]",
        streams: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        report: int,
        *,
        sandboxed: bool,
    ) -> None:
        self._popen = popen
        self._sandboxed = sandboxed
        self._reader, self._writer = streams
        self._number = 0
        self._report = report
        self._told = b""
        self._hung_up = asyncio.Event()
        asyncio.get_running_loop().add_reader(report, self._read_report)
        self._ending = asyncio.create_task(self._await_end())

    @classmethod
    async def start(cls, box: Box, output: int) -> Self:
        """Start a process in a box, whose output goes to the descriptor `output`."""
        ours, theirs = socket.socketpair()
        reader, writer = os.pipe()
        try:
            popen = subprocess.Popen(
                box.command(writer),
                stdin=theirs.fileno(),
                stdout=output,
                stderr=output,
                env=box.environment(),
                pass_fds=(writer,),
                start_new_session=True,
            )
        finally:
            theirs.close()
            os.close(writer)
        streams = await asyncio.open_unix_connection(sock=ours, limit=BUFFER_BYTES)
        return cls(popen, streams, reader, sandboxed=box.data.sandbox != "none")

    @property
    def is_over(self) -> bool:
        """True if it takes no more calls: it was abandoned, or has ended."""
        return self._hung_up.is_set()

    async def ask(self, call: Call, *arguments: object) -> Answer:
        """Return the answer to a call.

        Raises:
            ProcessEndedError: there is none, because the process has ended.
            GarbageError: it wrote something else.
        """
        self._number += 1
        message = pickle.dumps(Request(self._number, call, arguments), pickle.HIGHEST_PROTOCOL)
        self._writer.write(len(message).to_bytes(LENGTH_BYTES, "big") + message)
        answer = asyncio.ensure_future(self._receive())
        try:
            await asyncio.wait({answer, self._ending}, return_when=asyncio.FIRST_COMPLETED)
            if answer.done() and (frame := answer.result()) is not None:
                return Answer.read(frame, self._number)
        except ValueError as error:
            raise GarbageError(str(error)) from None
        finally:
            answer.cancel()
        raise ProcessEndedError(await asyncio.shield(self._ending))

    def abandon(self) -> None:
        """End the process and all that it has started: its keeper, to which nobody listens any more, kills them."""
        if not self._hung_up.is_set():
            asyncio.get_running_loop().remove_reader(self._report)
            os.close(self._report)
            self._hung_up.set()
            self._writer.close()

    async def gone(self) -> None:
        """Wait until all of it is gone."""
        await asyncio.shield(self._ending)

    async def _receive(self) -> bytes | None:
        """Return the next frame; None: there will be none."""
        try:
            length = int.from_bytes(await self._reader.readexactly(LENGTH_BYTES), "big")
            if length > MAX_ANSWER_FRAME_BYTES:
                raise ValueError(f"a message of {length:,} bytes; at most {MAX_ANSWER_FRAME_BYTES:,} are read")
            return await self._reader.readexactly(length)
        except (asyncio.IncompleteReadError, ConnectionError):
            return None

    def _read_report(self) -> None:
        told = os.read(self._report, MAX_REPORT_BYTES)
        self._told += told
        if not told:  # the keeper has ended, and with it everything below
            self.abandon()

    async def _await_end(self) -> Ending | None:
        """Wait for the end of the keeper, and with it of everything below; return what it has reported."""
        await self._hung_up.wait()
        worker, _, ending = self._told.partition(b"\n")
        try:
            await asyncio.to_thread(self._popen.wait, END_S)
        except subprocess.TimeoutExpired:
            ending = b""
        if ending:
            return Ending(**json.loads(ending))
        self._kill(int(worker or 0))
        await asyncio.to_thread(self._popen.wait)
        return None

    def _kill(self, worker: int) -> None:
        """Kill a keeper that does not end, and the session of its worker."""
        if self._popen.poll() is None:
            self._popen.kill()
        if worker and not self._sandboxed:  # in a sandbox its number is another, and all ends with the keeper
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(worker, signal.SIGKILL)
