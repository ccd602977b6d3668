"""The process that runs the reward functions: answers one call after another, until its actor hangs up.

It is the child of `reward_keeper.py`, which has prepared it. Its input is the actor's end of a socket, and its output
goes to the actor's log.
"""

import os
import pickle
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from io import TextIOWrapper
from pathlib import Path
from typing import NoReturn

from isentrope.actors.reward_wire import LENGTH_BYTES, Answer, Call, Failed, to_message
from isentrope.errors import InternalError, IsentropeError
from isentrope.rollout.config import DataConfig
from isentrope.rollout.data.rows import Messages, Row
from isentrope.rollout.rewards.functions import RewardSet, load_rewards, probe
from isentrope.rollout.rewards.loading import last_line


@dataclass(frozen=True, slots=True)
class Request:
    """One call, as the actor sends it."""

    number: int
    call: Call
    arguments: tuple[object, ...] = ()


def work() -> NoReturn:
    """Serve calls until the actor hangs up."""
    calls = _take_input()
    for stream in (sys.stdout, sys.stderr):
        assert isinstance(stream, TextIOWrapper)
        stream.reconfigure(line_buffering=True)  # what is printed before a hang must be seen
    own, worker = os.getpid(), _Worker()
    while (message := _receive(calls)) is not None:
        request = pickle.loads(message)
        assert isinstance(request, Request)
        answer = worker.answer(request).model_dump_json().encode()
        if os.getpid() != own:
            os._exit(0)  # a copy that a reward function made and did not end: it has no part in the actor's calls
        calls.sendall(len(answer).to_bytes(LENGTH_BYTES, "big") + answer)
    os._exit(0)


class _Worker:
    """The reward functions, once they are loaded."""

    def __init__(self) -> None:
        self._loaded: RewardSet | None = None
        self._calls: Mapping[Call, Callable[..., Answer]] = {
            "load": self._load,
            "score": self._score,
            "probe": self._probe,
            "columns": self._columns,
        }

    def answer(self, request: Request) -> Answer:
        """Carry a call out."""
        try:
            return self._calls[request.call](request.number, *request.arguments)
        except IsentropeError as error:
            return Answer(call=request.number, failed=Failed.of(error))
        except Exception as error:
            failure = InternalError(f"{request.call}: {type(error).__name__}: {error}", where=last_line(error))
            return Answer(call=request.number, failed=Failed.of(failure))

    def _load(self, number: int, data: DataConfig, run_folder: Path, path: list[str]) -> Answer:
        """Import the reward functions; `path`: where the actor finds modules."""
        sys.path[:] = path
        self._loaded = load_rewards(data, run_folder=run_folder)
        return Answer(call=number)

    def _score(
        self,
        number: int,
        prompts: Sequence[str | Messages],
        completions: Sequence[str],
        columns: Mapping[str, Sequence[object]],
    ) -> Answer:
        outcomes = self._rewards(prompts, completions, columns)
        return Answer(call=number, outcomes=[to_message(each) for each in outcomes])

    def _probe(self, number: int, row: Row) -> Answer:
        return Answer(call=number, outcomes=[to_message(each) for each in probe(self._rewards, row)])

    def _columns(self, number: int) -> Answer:
        return Answer(call=number, columns=sorted(self._rewards.columns))

    @property
    def _rewards(self) -> RewardSet:
        assert self._loaded is not None, "load comes first"
        return self._loaded


def _take_input() -> socket.socket:
    """Return the socket that is this process's input, and leave an empty input in its place."""
    calls = socket.socket(fileno=os.dup(sys.stdin.fileno()))
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), sys.stdin.fileno())
    return calls


def _receive(calls: socket.socket) -> bytes | None:
    """Return the next message; None: the actor has hung up."""
    length = _exactly(calls, LENGTH_BYTES)
    return None if length is None else _exactly(calls, int.from_bytes(length, "big"))


def _exactly(calls: socket.socket, count: int) -> bytes | None:
    message = bytearray(count)
    there = memoryview(message)
    while there:
        got = calls.recv_into(there)
        if not got:
            return None
        there = there[got:]
    return bytes(message)
