"""The broker of one command: a private server in the run's folder, or an existing one."""

from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from isentrope.broker_url import complete
from isentrope.environment import variable
from isentrope.redis_server import RedisServer
from isentrope.rollout.config import RedisConfig


@dataclass(frozen=True, slots=True)
class Place:
    """Address of the broker. The URL may hold a password."""

    url: str
    socket: str
    """Unix socket of a private server; else empty."""


class CommandBroker:
    """The broker, as a context manager."""

    def __init__(self, config: RedisConfig, folder: Path) -> None:
        """Prepare a private server with its data in `folder`, unless the environment holds a URL."""
        url = complete(variable(config.url_env), config.password_file, config.ca_file)
        self._server = None if url else RedisServer()
        self._folder = folder
        self._url = url

    def __enter__(self) -> Place:
        if self._server is None:
            return Place(self._url, "")
        url = self._server.start(self._folder)
        return Place(url, str(self._server.socket))

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
