"""Calls to the broker from an event loop: in threads, and with the patience of an actor. Knows no particular call."""

import asyncio
import logging
import time
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from isentrope.errors import UnreachableError

logger = logging.getLogger(__name__)
_P = ParamSpec("_P")
_T = TypeVar("_T")


class Caller:
    """Makes calls that block, and goes on trying while the broker does not answer."""

    def __init__(self, patience_s: float) -> None:
        """`patience_s`: how long a call is tried; the broker's client alone gives up after half a minute."""
        self._patience_s = patience_s

    async def __call__(self, call: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Result of `call`."""
        deadline = time.monotonic() + self._patience_s
        while True:
            try:
                return await asyncio.to_thread(call, *args, **kwargs)
            except UnreachableError as error:
                if time.monotonic() > deadline:
                    raise
                logger.warning("%s; trying again", error.what)

    async def to_its_end(self, call: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """As `__call__`, but when cancelled it waits for `call` to end: no lease may be taken after all others were
        handed back."""
        calling = asyncio.ensure_future(self(call, *args, **kwargs))
        try:
            return await asyncio.shield(calling)
        except asyncio.CancelledError:
            await asyncio.wait({calling})
            raise
