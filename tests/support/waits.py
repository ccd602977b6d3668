"""Waiting for a state: the one way in which tests wait for what another thread, task or process does.

The deadline decides nothing on a machine of any speed: it ends a test that would hang, and says what never came.
"""

import asyncio
import time
from collections.abc import Callable
from inspect import isawaitable
from typing import TypeVar

import psutil
import pytest

T = TypeVar("T")
What = str | Callable[[], str]
"""What is awaited; a function is asked when the deadline has passed, and may tell what was seen instead."""

DEADLINE_S = 240.0
"""Reached only by what hangs, on a busy machine too; also for deadlines that are given to the program."""

POLL_S = 0.01


def wait_until(
    condition: Callable[[], T | None], what: What, *, deadline_s: float = DEADLINE_S, poll_s: float = POLL_S
) -> T:
    """Return the first value of `condition()` that is true; fail with `what` after the deadline."""
    deadline = time.monotonic() + deadline_s
    while not (value := condition()):
        _check(deadline, deadline_s, what)
        time.sleep(poll_s)
    return value


async def until(condition: Callable[[], object], what: What, *, deadline_s: float = DEADLINE_S) -> None:
    """Wait in an event loop, whose tasks go on meanwhile; `condition` may be a coroutine function."""
    deadline = time.monotonic() + deadline_s
    while not await _value(condition()):
        _check(deadline, deadline_s, what)
        await asyncio.sleep(POLL_S)


def wait_until_gone(*processes: int | psutil.Process) -> None:
    """Wait until all of them are dead; somebody may still have to take notice of it."""
    wait_until(lambda: not any(map(is_alive, processes)), lambda: f"the end of {[*filter(is_alive, processes)]}")


def is_alive(process: int | psutil.Process) -> bool:
    """Return whether a process runs."""
    try:
        known = psutil.Process(process) if isinstance(process, int) else process
        return known.is_running() and known.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


async def _value(value: object) -> object:
    return await value if isawaitable(value) else value


def _check(deadline: float, deadline_s: float, what: What) -> None:
    if time.monotonic() > deadline:
        pytest.fail(f"not within {deadline_s:.0f} s: {what() if callable(what) else what}")
