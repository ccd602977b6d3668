"""A run on several machines: one holds the broker; all share the folder of the example."""

import secrets
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest
from machines import Command, Machine, Switch, why_not
from waits import wait_until
from whole_commands import BOOT_S, batches, lines

from isentrope import init
from isentrope.redis_server import find_binary

SMALL = ("data.eval_prompts=8", "data.eval_samples=2", "learner.prompts_per_batch=8", "actors.heartbeat_s=2.0")
"""Changes to the example that make its batches small and its losses soon noticed."""

NEVER = "learner.batches=1000000"

BROKER = """port 6379
bind 0.0.0.0
requirepass {password}
appendonly yes
maxmemory-policy noeviction
save ""
"""


class Lab:
    """Machines with a broker, as a context manager."""

    def __init__(self, folder: Path) -> None:
        """Make the broker's machine, and the example; skip the test where machines cannot be made."""
        if reason := why_not():
            pytest.skip(reason)
        self.example = folder / "example"
        init.write("digit_walk", self.example)
        self.run = self.example / "runs" / "digit-walk"
        self.switch = Switch(folder, shared=[self.example])
        self._commands: list[Command] = []
        try:
            self.url = start_broker(self.switch)
        except BaseException:
            self.switch.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.switch.close()

    def add(self, *names: str, shared: bool | Sequence[Path] = True) -> list[Machine]:
        """Add machines, which see the example's folder, nothing, or the given folders."""
        return [self.switch.add(name, shared=shared) for name in names]

    def start(self, machine: Machine, *arguments: str, env: Mapping[str, str] | None = None) -> Command:
        """Start `isentrope ...` on a machine, in the folder of the example if it sees that."""
        command = (sys.executable, "-m", "isentrope.cli", *arguments)
        variables = {"ISENTROPE_REDIS_URL": self.url, **(env or {})}
        self._commands.append(
            machine.start(*command, env=variables, folder=self.example if machine.shared else None, name=arguments[0])
        )
        return self._commands[-1]

    def until(self, condition: Callable[[], object], *running: Command) -> None:
        """Wait for a condition; fail with what the commands say if one of `running` ends, or it never holds."""

        def holds() -> bool:
            if condition():
                return True
            if any(command.poll() is not None for command in running):
                pytest.fail(self.output(*running))
            return False

        wait_until(holds, lambda: self.output(*running), deadline_s=BOOT_S, poll_s=0.1)

    def until_batch(self, number: int, *running: Command) -> None:
        """Wait until so many batches are trained."""
        self.until(lambda: max(batches(self.run), default=0) >= number, *running)

    def newest_batch(self) -> int:
        """Return the number of the newest trained batch."""
        return max(batches(self.run), default=0)

    def output(self, *others: Command) -> str:
        """Return the last that every command has said, and `others`."""
        return "\n\n".join(command.output[-3000:] for command in dict.fromkeys((*self._commands, *others)))


def start_broker(switch: Switch) -> str:
    """Add a machine with a broker, and return its URL."""
    machine, password = switch.add("broker"), secrets.token_hex(16)
    (machine.folder / "home" / "redis.conf").write_text(BROKER.format(password=password))
    server = machine.start(str(find_binary()), "redis.conf", name="redis")
    wait_until(lambda: "eady to accept" in server.output, lambda: server.output)
    return f"redis://:{password}@{machine.address}:6379/0"


def seconds_to_next_batch(run: Path, since: float) -> float:
    """Return the time from `since`, in seconds of Unix time, to the first batch that was trained later."""
    return min(at for line in lines(run / "metrics.jsonl") if (at := line["time"]["at"]) > since) - since
