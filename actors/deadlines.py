"""Calls that may never return, such as reads of a disk behind a network: neither the event loop nor the end of the
process waits for them."""

import asyncio
import contextlib
import threading
from collections.abc import Callable
from functools import partial
from typing import TypeVar

_A = TypeVar("_A")
_T = TypeVar("_T")


async def within(seconds: float | None, function: Callable[[_A], _T], argument: _A) -> _T:
    """Return what `function` returns, which runs in a thread of its own; TimeoutError if that takes too long, None:
    never. The thread then goes on alone, as it does when this is cancelled."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[_T] = loop.create_future()

    def run() -> None:
        try:
            deliver = partial(answer.set_result, function(argument))
        except BaseException as error:  # the caller must receive it, whatever it is
            deliver = partial(answer.set_exception, error)
        with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
            loop.call_soon_threadsafe(lambda: None if answer.done() else deliver())

    threading.Thread(target=run, name=getattr(function, "__name__", "call"), daemon=True).start()
    async with asyncio.timeout(seconds):
        return await answer
