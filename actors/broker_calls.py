"""Calls to the broker from an event loop: in threads, repeated while the broker does not answer."""

import asyncio
import logging
import time
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from isentrope.errors import NoScriptsError, UnreachableError

PAUSE_S = 0.2
"""Time between two calls: an error that comes at once must not be asked for thousands of times a second."""

logger = logging.getLogger(__name__)
_P = ParamSpec("_P")
_T = TypeVar("_T")


class BrokerCaller:
    """Runner of blocking calls, which it repeats while the broker does not answer.

    A task that is cancelled in a call first waits for the call's end, since a thread cannot be stopped: nothing may be
    leased or published after all leases were handed back.
    """

    def __init__(self, timeout_s: float, open_timeout_s: float = 0.0) -> None:
        """Repeat each call for `timeout_s`; the broker's client alone stops after half a minute.

        Where a learner has still to open the run, repeat it for `open_timeout_s` if that is longer: the broker answers,
        and ranks may load their model for longer than a broker may be away.
        """
        self._timeout_s = timeout_s
        self._open_timeout_s = max(timeout_s, open_timeout_s)

    async def __call__(self, call: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Return the result of `call`."""
        began = time.monotonic()
        while True:
            running = asyncio.ensure_future(asyncio.to_thread(call, *args, **kwargs))
            try:
                return await asyncio.shield(running)
            except asyncio.CancelledError:
                await asyncio.gather(running, return_exceptions=True)
                raise
            except UnreachableError as error:
                limit_s = self._open_timeout_s if isinstance(error, NoScriptsError) else self._timeout_s
                if time.monotonic() > began + limit_s:
                    what = f"{error.what}; it was tried for {limit_s:.0f} s in all"
                    raise UnreachableError(what, where=error.where, fix=error.fix) from None
                logger.warning("%s; trying again", error.what)
            await asyncio.sleep(PAUSE_S)
