"""A run of ports on several machines: a broker, a learner, and actors that answer at once; see `port_ends.py`."""

import json
import sys
from pathlib import Path
from typing import Any

from lab import start_broker
from machines import Command, Machine, Switch
from waits import DEADLINE_S, wait_until

NAME = "ports"

TESTS = Path(__file__).resolve().parents[1]
PATHS = [TESTS.parent / "src", *(TESTS / part for part in ("support", "rollout", "learner/intake", "system"))]
ENDS = str(TESTS / "system" / "port_ends.py")


class PortRun:
    """The run, whose learner trains until it is told to finish."""

    def __init__(self, switch: Switch) -> None:
        self._switch = switch
        self._url = start_broker(switch)
        self._home = switch.add("learner")
        self._commands: list[Command] = []
        self._learner = self._start(self._home, "learner", self._url, NAME)

    def add_actor(self, name: str, tokens: int, bits_per_s: int = 0) -> Machine:
        """Add a machine with an actor, whose responses have so many tokens; 0 bits per second: its uplink is fast."""
        machine = self._switch.add(name)
        if bits_per_s:
            machine.slow(bits_per_s)
        self._start(machine, "actor", self._url, NAME, name, str(tokens))
        return machine

    def trained(self) -> list[dict[str, Any]]:
        """Return what the learner has told of every batch."""
        lines = [line for line in self._learner.output.splitlines(keepends=True) if line.startswith('{"batch"')]
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def by(self, actor: str, since: float = 0.0) -> list[float]:
        """Return when batches with a group of `actor` were trained, from `since` on."""
        return [line["at"] for line in self.trained() if line["at"] >= since and actor in line["actors"]]

    def has_said(self, text: str) -> bool:
        """Return whether any of its processes has said `text`."""
        return any(text in command.output for command in self._commands)

    def output(self) -> str:
        """Return the last that all of them have said."""
        return "\n\n".join(command.output[-2000:] for command in self._commands)

    def finish(self) -> dict[str, Any]:
        """Let the learner end, which checks that every order was done once, and return its last word."""
        (self._home.folder / "home" / "finish").touch()
        wait_until(lambda: self._learner.poll() is not None, self.output, deadline_s=2 * DEADLINE_S)
        assert self._learner.poll() == 0, self.output()
        assert [line["batch"] for line in self.trained()] == [*range(1, len(self.trained()) + 1)]
        end: dict[str, Any] = json.loads(self._learner.output.splitlines()[-1])
        return end

    def _start(self, machine: Machine, *arguments: str) -> Command:
        env = {"PYTHONPATH": ":".join(map(str, PATHS))}
        self._commands.append(machine.start(sys.executable, ENDS, *arguments, env=env))
        return self._commands[-1]
