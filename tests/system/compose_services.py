"""The services of `deploy/compose` as processes of this machine: commands, variables, mounts and secrets are those of
the file. A mount point is a folder of its own here, and an address a free port of the loopback interface."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import yaml
from deploy_files import DEPLOY, Tree
from monitoring import Prometheus, program_of_prometheus
from waits import wait_until
from whole_commands import Process, free_port

from isentrope.redis_server import find_binary

SECRETS = "/run/secrets"
"""Where Compose puts the files of secrets."""


class ComposeServices:
    """All of them, as a context manager; each runs when it is started."""

    def __init__(self, folder: Path) -> None:
        """Prepare them as the README does, in a copy of `deploy`; skip the test where there is no Prometheus."""
        self._prometheus = program_of_prometheus("prometheus")
        shutil.copytree(DEPLOY, folder / "deploy")
        self._compose = folder / "deploy" / "compose"
        self._volumes = folder / "volumes"
        self._secrets = folder / "secrets"
        subprocess.run([self._compose / "prepare.sh"], check=True)
        self._services: dict[str, Tree] = yaml.safe_load((self._compose / "compose.yaml").read_text())["services"]
        lines = (self._compose / ".env").read_text().splitlines()
        self._variables = dict(line.split("=", 1) for line in lines)
        self._addresses = {name: f"127.0.0.1:{free_port()}" for name in ("redis", "exporter", "prometheus")}
        self._started: list[Process] = []
        told = folder / "deploy" / "monitoring" / "prometheus.yaml"
        told.write_text(told.read_text().replace("exporter:9464", self._addresses["exporter"]))
        self.run = self._compose / "runs" / self._variables["ISENTROPE_RUN"] / "runs" / self._variables["ISENTROPE_RUN"]
        """Folder of the run."""
        self.prometheus = Prometheus(f"http://{self._addresses['prometheus']}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in reversed(self._started):
            process.close()

    def start(self, name: str, *more: str) -> Process:
        """Start a service, with arguments after those of the file."""
        service = self._services[name]
        words = [self._here(name, str(word)) for word in (*service["command"], *more)]
        env = {key: self._here(name, str(value)) for key, value in service.get("environment", {}).items()}
        env["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        folder = self._compose / "runs"
        self._started.append(Process(*self._program(name, words), folder=folder, env=env))
        return self._started[-1]

    def wait_for_broker(self, broker: Process) -> None:
        """Wait until its health check passes."""
        _, *words = self._services["redis"]["healthcheck"]["test"]
        cli = find_binary().with_name(words[0])
        port = self._addresses["redis"].partition(":")[2]
        probe = [str(cli), "-p", port, *words[1:]]
        wait_until(
            lambda: "PONG" in subprocess.run(probe, capture_output=True, text=True).stdout, lambda: broker.output
        )

    def _program(self, name: str, words: list[str]) -> list[str]:
        """Return a service's command with what is this machine's: the image's own program, and its port."""
        host, port = self._addresses.get(name, ":").split(":")
        if name == "redis":
            return [str(find_binary()), *words[1:], "--bind", host, "--port", port]
        if name == "prometheus":
            return [self._prometheus, *words, f"--web.listen-address={host}:{port}"]
        return words

    def _here(self, name: str, text: str) -> str:
        """Return a text of the file with this machine's places and addresses."""
        text = re.sub(r"\$\{(\w+):-.*?\}", lambda found: self._variables[found[1]], text)
        for point, place in self._mounts(name):
            text = re.sub(rf"(?<![\w.-]){re.escape(point)}(?![\w-])", str(place), text)
        text = text.replace("0.0.0.0:9464", self._addresses["exporter"])
        return re.sub(r"\bredis:6379\b", self._addresses["redis"], text)

    def _mounts(self, name: str) -> Iterator[tuple[str, Path]]:
        """Yield the mount points of a service and what is there; of secrets those that it is given."""
        service = self._services[name]
        for volume in service.get("volumes", []):
            source, point = str(volume).split(":")[:2]
            place = (self._compose if source.startswith(".") else self._volumes) / source
            if source[0] != ".":
                place.mkdir(parents=True, exist_ok=True)
            yield point, place.resolve()
        given = self._secrets / name
        given.mkdir(parents=True, exist_ok=True)
        for secret in service.get("secrets", []):
            shutil.copy(self._compose / "secrets" / secret, given)
        yield SECRETS, given
