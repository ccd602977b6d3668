"""One actor for each GPU of a machine, or for each `tensor_parallel_size` of them: `isentrope actor --per-gpu`.

Each is a process of its own that sees its GPUs alone. One that fails is started again, unless it failed by what the
next one would fail by too; one that has left stays away: the run has ended, or it was asked to leave.
"""

import contextlib
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

from isentrope.environment import environment_with, gpus
from isentrope.errors import ConfigError
from isentrope.launch.actor_process import FATAL
from isentrope.launch.interrupts import SIGNALS
from isentrope.rollout.broker.connection import Broker
from isentrope.rollout.broker.run_view import RunView
from isentrope.rollout.config import RedisConfig

LOOK_S = 0.5

OPEN_S = 600.0
"""Wait for a learner to open the run, which says how many GPUs an actor needs."""

MAX_PAUSE_S = 60.0
"""Longest wait before an actor is started again."""

CALM_S = 600.0
"""Life of an actor after which its next failure counts as the first."""

FINAL = frozenset(error.exit_code for error in FATAL)
"""Exit codes of errors that a new start does not mend."""


@dataclass(frozen=True, slots=True)
class Machine:
    """Actors to be joined: one for each share of this machine's GPUs."""

    url: str
    """The broker's, with its password."""
    run: str
    name: str
    """First part of their names; empty: this host's."""
    insecure: bool
    more: tuple[str, ...] = ()
    """Further options of each actor."""
    stopped_code: int = 0
    """Exit code of an actor that was stopped."""


def join(machine: Machine) -> int:
    """Run an actor for each share of this machine's GPUs, until all have left; return their exit code."""
    broker = Broker.connect(machine.url, machine.run, insecure=machine.insecure)
    with contextlib.closing(broker):
        each = int(str(RunView(broker).spec(OPEN_S).actors["tensor_parallel_size"]))
    name = machine.name or socket.gethostname().partition(".")[0]
    members = Members(stopped_code=machine.stopped_code)
    for share in shares(gpus(), each):
        command = [sys.executable, "-m", "isentrope", "actor", "--run", machine.run]
        command += ["--name", f"{name}-gpu{share.replace(',', '-')}-{secrets.token_hex(2)}"]
        command += machine.more
        # The URL may hold a password, which everyone on this machine could read among the arguments.
        members.add(command, environment_with({RedisConfig().url_env: machine.url, "CUDA_VISIBLE_DEVICES": share}))
    return members.run()


def shares(devices: Sequence[str], each: int) -> list[str]:
    """Return the devices of each actor, as CUDA_VISIBLE_DEVICES names them.

    Raises:
        ConfigError: there are too few for one actor.
    """
    found = [",".join(devices[start : start + each]) for start in range(0, len(devices) - each + 1, each)]
    if not found:
        raise ConfigError(
            f"an actor of this run needs {each} GPU{'s' * (each > 1)}, and this machine shows {len(devices)}",
            fix="run it where there are enough, or leave out --per-gpu to work on the processor",
        )
    return found


@dataclass(slots=True)
class _Member:
    """One actor of the machine: its process, or the time when the next one may start."""

    command: Sequence[str]
    environment: Mapping[str, str]
    ends: AbstractSet[int] = FINAL | {0}
    """Exit codes that no other process follows."""
    process: "subprocess.Popen[bytes] | None" = None
    started: float = 0.0
    failures: int = 0
    retry_at: float = 0.0
    code: int | None = None
    """Exit code of the last process, which no other follows; None: it goes on."""

    def look(self, now: float) -> None:
        """Start the process if it is due, and take notice of its end."""
        if self.code is not None:
            return
        if self.process is None:
            if now >= self.retry_at:
                self.process, self.started = subprocess.Popen(self.command, env=dict(self.environment)), now
            return
        code = self.process.poll()
        if code is None:
            return
        self.process = None
        if code in self.ends:
            self.code = code
            return
        self.failures = 1 if now - self.started > CALM_S else self.failures + 1
        self.retry_at = now + min(2.0**self.failures, MAX_PAUSE_S)


@dataclass(slots=True)
class Members:
    """The actors of one machine."""

    members: list[_Member] = field(default_factory=list)
    leaving: bool = False
    stopped_code: int = 0
    """Exit code of a process that was stopped."""

    def add(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        """Add an actor that is started by `command`."""
        self.members.append(_Member(command, environment, FINAL | {0, self.stopped_code}))

    def run(self) -> int:
        """Run the actors until all have left; return the exit code of one that failed for good, else of one that was
        stopped, else 0."""
        before = {number: signal.signal(number, self._pass_on) for number in SIGNALS}
        try:
            while self._look():
                time.sleep(LOOK_S)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            for member in self.members:
                if member.process is not None:
                    member.process.kill()
        codes = [member.code or 0 for member in self.members]
        return max(FINAL.intersection(codes), default=max(codes, default=0))

    def _look(self) -> bool:
        """Return True while one of them runs, or is to be started; take a look at all."""
        for member in self.members:
            if not (self.leaving and member.process is None):
                member.look(time.monotonic())
        running = any(member.process is not None for member in self.members)
        return running or (not self.leaving and any(member.code is None for member in self.members))

    def _pass_on(self, number: int, frame: object) -> None:
        """Ask all to leave; none is started again."""
        self.leaving = True
        for member in self.members:
            if member.process is not None:
                member.process.send_signal(number)
