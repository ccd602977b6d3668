"""The one version that an actor fetches, in a thread, while it goes on with what it has."""

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable

from isentrope.actors.deadlines import within
from isentrope.actors.run_files import RunFiles, Wanted
from isentrope.long_waits import waiting_for
from isentrope.rollout.wire.weights import Manifest

STOP_S = 30.0
"""Time in which a fetch must stop: it looks between two pieces of a file."""

logger = logging.getLogger(__name__)


async def forget(files: RunFiles, manifest: Manifest) -> None:
    """Delete the fetched files of a version, one of which is damaged. On a disk that hangs they are left to a thread
    that nothing waits for."""
    try:
        await within(STOP_S, files.forget, manifest)
    except TimeoutError:
        logger.warning("the files of version %d hang on their disk, and are not deleted", manifest.version)


class Fetch:
    """One fetch, from its start until its files are not needed any more."""

    def __init__(self, files: RunFiles, wanted: Wanted, on_end: Callable[[], None]) -> None:
        """Start it; `on_end` is called once it is done."""
        self.version = wanted.version
        self._stop = threading.Event()
        self._stack = contextlib.ExitStack()
        entered = files.version(wanted, self._stop)
        self._task = asyncio.create_task(within(None, self._stack.enter_context, entered))
        self._task.add_done_callback(lambda task: on_end())

    @property
    def done(self) -> bool:
        """True if `result` returns at once."""
        return self._task.done()

    def result(self) -> Manifest:
        """Return the manifest with the folder of its files; raise what `RunFiles.version` raises."""
        return self._task.result()

    async def close(self) -> None:
        """Stop it if it is on its way, and let the files go. One that hangs in its depot is left to its thread."""
        self._stop.set()
        with waiting_for(f"the fetch of version {self.version} to stop"):
            await asyncio.wait({self._task}, timeout=STOP_S)
        if not self._task.done():
            self._task.cancel()
            logger.warning("the fetch of version %d hangs in its depot, and is given up", self.version)
            return
        if not self._task.cancelled():
            self._task.exception()  # else asyncio reports one that nobody asked for
        self._stack.close()
