"""The broker of one command: a private server in the run's folder, or an existing one."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from isentrope.broker_url import url_for
from isentrope.redis_server import RedisServer
from isentrope.rollout.broker.access import Role
from isentrope.rollout.config import RedisConfig

OF_A_COMMAND = (Role.COMMAND, Role.LEARNER, Role.ACTOR)
"""Roles of a command and of the processes that it starts."""


@dataclass(frozen=True, slots=True)
class Place:
    """Address of the broker. The URLs may hold passwords: each process gets that of its own role alone."""

    urls: Mapping[Role, str]
    """URL for the processes of each of `OF_A_COMMAND`; all the same where `redis.passwords` names no users."""
    socket: str
    """Unix socket of a private server; else empty."""


class CommandBroker:
    """The broker, as a context manager."""

    def __init__(self, config: RedisConfig, run: str, folder: Path) -> None:
        """Prepare a private server for a run, with its data in `folder`, unless the environment holds a URL."""
        self._urls = {role: url_for(role, config) for role in OF_A_COMMAND}
        self._server = None if all(self._urls.values()) else RedisServer(run=run)
        self._folder = folder

    def __enter__(self) -> Place:
        if self._server is None:
            return Place(self._urls, "")
        self._server.start(self._folder)
        return Place({role: self._server.url_of(role) for role in OF_A_COMMAND}, str(self._server.socket))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._server is not None:
            self._server.stop()

    def revive(self) -> bool:
        """Start a private server again if it has died; return True if it had."""
        if self._server is None or self._server.pid:
            return False
        self._server.restart()
        return True
