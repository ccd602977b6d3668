"""A private server that can be killed, set back to an older state, and wiped."""

import os
import shutil
import signal
from pathlib import Path

from protocol_model import RUN
from servers import binary_of

from isentrope.redis_server import RedisServer
from isentrope.rollout.broker.connection import Broker


class Site:
    """A server that can be killed, set back and wiped."""

    def __init__(self, folder: Path, kind: str = "own") -> None:
        self.folder = folder
        self.server = RedisServer(fsync="always", binary=binary_of(kind))
        self.server.start(folder / "data")
        self.brokers: list[Broker] = []

    def connect(self) -> Broker:
        broker = Broker.connect(self.server.url, RUN)
        self.brokers.append(broker)
        return broker

    def reset(self) -> None:
        """A new example: nothing is left of the last one."""
        for broker in self.brokers:
            broker.close()
        self.brokers.clear()
        if sum(file.stat().st_size for file in self._files()) > 1 << 20:
            self.lose()
        self.connect().run(lambda client: client.flushall())
        self.save()

    def save(self) -> None:
        """What `roll_back` goes back to; complete, because every write is synced."""
        self._copy(self.folder / "data", self.folder / "saved")

    def kill(self) -> None:
        os.kill(self.server.pid, signal.SIGKILL)
        self._restart()

    def roll_back(self) -> None:
        os.kill(self.server.pid, signal.SIGKILL)
        self._copy(self.folder / "saved", self.folder / "data")
        self._restart()

    def lose(self) -> None:
        os.kill(self.server.pid, signal.SIGKILL)
        for file in self._files():
            file.unlink()
        self._restart()

    def _restart(self) -> None:
        self.server.restart()
        for broker in self.brokers:
            broker.close()  # saves the wait for each broken connection; the pins stay

    def _files(self) -> list[Path]:
        """Return the files of the log: Redis 7 has several, in a folder of their own."""
        found = (self.folder / "data").rglob("appendonly*")
        return sorted(path for path in found if path.is_file())

    def _copy(self, source: Path, target: Path) -> None:
        shutil.rmtree(target / "appendonlydir", ignore_errors=True)
        shutil.copytree(
            source, target, ignore=lambda _, names: {n for n in names if not n.startswith("append")}, dirs_exist_ok=True
        )
