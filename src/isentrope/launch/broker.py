"""The broker of one command: a private server in the run's folder, or an existing one."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from isentrope.broker_url import complete
from isentrope.environment import variable
from isentrope.redis_server import RedisServer
from isentrope.rollout.broker.access import Role
from isentrope.rollout.config import RedisConfig


@dataclass(frozen=True, slots=True)
class Place:
    """Address of the broker. The URLs may hold passwords: each process gets that of its own role alone."""

    urls: Mapping[Role, str]
    """URL for the processes of each role; all the same where the environment holds one URL."""
    socket: str
    """Unix socket of a private server; else empty."""


class CommandBroker:
    """The broker, as a context manager."""

    def __init__(self, config: RedisConfig, run: str, folder: Path) -> None:
        """Prepare a private server for a run, with its data in `folder`, unless the environment holds a URL."""
        url = complete(variable(config.url_env), config.password_file, config.ca_file)
        self._server = None if url else RedisServer(run=run)
        self._folder = folder
        self._url = url

    def __enter__(self) -> Place:
        if self._server is None:
            return Place(dict.fromkeys(Role, self._url), "")
        self._server.start(self._folder)
        return Place({role: self._server.url_of(role) for role in Role}, str(self._server.socket))

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
