"""One rollout actor as a process of Ray, or of `isentrope actor`."""

import asyncio
import dataclasses
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from isentrope.environment import cache_folder
from isentrope.errors import AccessError, ConfigError, DataError, RunFolderError
from isentrope.launch import logs, machines, temporary
from isentrope.launch.interrupts import SIGNALS
from isentrope.launch.surroundings import Surroundings

if TYPE_CHECKING:
    from isentrope.actors.worker import ActorOptions

FATAL = (ConfigError, DataError, AccessError, RunFolderError)
"""Errors that every other actor would have too, unless one serves nevertheless."""

logger = logging.getLogger(__name__)


class RolloutActor:
    """Body of the Ray actor."""

    def serve(self, options: "ActorOptions", log: Path, surroundings: Surroundings) -> None:
        """Run an actor until it is told to leave."""
        logs.to_file(log)
        surroundings.enter(alone=True)
        try:
            asyncio.run(serve(options))
        except Exception:
            logger.exception("this actor failed")  # Ray does not show it
            raise


async def serve(options: "ActorOptions") -> bool:
    """Run an actor until the run ends or a signal asks it to leave; without a cache it uses the user's. Return as
    `worker.serve`."""
    from isentrope.actors import worker

    if options.places.cache == Path():
        places = dataclasses.replace(options.places, cache=cache_folder() / "runs")
        options = dataclasses.replace(options, places=places)
    options = dataclasses.replace(options, versions=machines.versions())
    drain = asyncio.Event()
    for number in SIGNALS:
        asyncio.get_running_loop().add_signal_handler(number, drain.set)
    with temporary.engine_folder():
        return await worker.serve(options, drain)
