"""Whole commands as a user starts them, and what they leave on the disk and among the processes."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from waits import wait_until

from isentrope.learner import json_files
from isentrope.learner.placement_record import PlacementRecord

BOOT_S = 600.0
"""Longest start of a run on a busy machine."""

END_S = 120.0
"""Longest end of what a command has started, on a busy machine, once the command has ended."""


class Process:
    """One program, in a session of its own."""

    def __init__(self, *words: str, folder: Path, env: dict[str, str] | None = None) -> None:
        """Start it."""
        self._log = folder / f"command-{time.monotonic_ns()}.log"
        self._file = self._log.open("wb")
        self._process = subprocess.Popen(
            words,
            cwd=folder,
            stdout=self._file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=os.environ | (env or {}),
        )

    @property
    def output(self) -> str:
        """What it has printed."""
        return self._log.read_text(errors="replace")

    def until(self, condition: Callable[[], bool]) -> None:
        """Wait for a condition; fails with the output if the command ends before, or never comes so far."""

        def holds() -> bool:
            if condition():
                return True
            if self._process.poll() is not None:
                pytest.fail(f"the command ended with {self._process.returncode}:\n{self.output}")
            return False

        wait_until(holds, lambda: self.output, deadline_s=BOOT_S, poll_s=0.1)

    def processes(self, name: str = "") -> list[psutil.Process]:
        """All that it has started, directly or not; or those whose command line holds `name`."""
        found = psutil.Process(self._process.pid).children(recursive=True)
        return [process for process in found if name in " ".join(_command_line(process))]

    def arguments(self) -> list[str]:
        """Command lines of the command and of all that it has started."""
        found = [psutil.Process(self._process.pid), *self.processes()]
        return [" ".join(_command_line(process)) for process in found]

    def environments(self) -> list[dict[str, str]]:
        """Environments of the command and of all that it has started."""
        found = []
        for process in [psutil.Process(self._process.pid), *self.processes()]:
            with contextlib.suppress(psutil.Error):
                found.append(process.environ())
        return found

    def listeners(self) -> set[tuple[str, str]]:
        """Kinds of its processes, its own included, and the kinds of addresses on which each listens."""
        found = set()
        for process in [psutil.Process(self._process.pid), *self.processes()]:
            with contextlib.suppress(psutil.Error):
                kind = "the command" if process.pid == self._process.pid else _kind(process)
                places = [each.laddr.ip for each in process.net_connections() if each.status == psutil.CONN_LISTEN]
                found |= {(kind, _address(place)) for place in places}
        return found

    def send(self, number: signal.Signals) -> None:
        """Signal the command itself."""
        self._process.send_signal(number)

    def wait(self, timeout_s: float = BOOT_S) -> int:
        """Its exit code."""
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            pytest.fail(f"still runs after {timeout_s:.0f} s:\n{self.output}")

    def close(self) -> None:
        """End it if it still runs."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        self._file.close()


class Command(Process):
    """One `isentrope ...`."""

    def __init__(
        self, *arguments: str, folder: Path, env: dict[str, str] | None = None, hidden: Path | None = None
    ) -> None:
        """Start it. hidden: folder that it finds empty."""
        before = without(hidden) if hidden is not None else ()
        super().__init__(*before, sys.executable, "-m", "isentrope.cli", *arguments, folder=folder, env=env)


def without(hidden: Path) -> list[str]:
    """What to put before a command so that it finds a folder empty; nothing where this user may not mount."""
    hide = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs tmpfs "$0" && exec "$@"', str(hidden)]
    may = shutil.which("unshare") is not None and subprocess.run([*hide, "true"], capture_output=True).returncode == 0
    return hide if may else []


def _kind(process: psutil.Process) -> str:
    """The kind of a process that a command started, as the page of `deploy` calls it."""
    return "the engine" if process.name().startswith("VLLM") else "Ray's servers and workers"


def _address(ip: str) -> str:
    if ip in ("::", "0.0.0.0"):
        return "all interfaces"
    return "loopback" if ip in ("127.0.0.1", "::1") else "the machine's address"


def _command_line(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def free_port() -> int:
    """A port of the loopback interface that nothing listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def lines(path: Path) -> list[dict[str, Any]]:
    """Whole lines of a file of JSON lines; none if there is no file."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]


def batches(run: Path) -> list[int]:
    """Numbers of the trained batches, as recorded."""
    return [line["batch"] for line in lines(run / "metrics.jsonl")]


def serving(run: Path) -> int:
    """Number of the command's own actors that serve, as recorded."""
    record = json_files.read(run, PlacementRecord)
    return sum(actor.state == "serving" for actor in record.actors.values()) if record is not None else 0


def writes(process: psutil.Process, name: str) -> bool:
    """Whether a process has a file of this name open."""
    return any(Path(file.path).name == name for file in process.open_files())


def left(processes: list[psutil.Process]) -> list[str]:
    """Which of these do not end by themselves."""
    _, alive = psutil.wait_procs(processes, timeout=END_S)
    return [f"{process.pid} {' '.join(_command_line(process))[:80]}" for process in alive]


Start = Callable[..., Command]
"""Arguments of `Command`."""
