"""The product's feeder without its thread: whoever waits for it lets it take its next step.

So equal calls in equal order have equal effects.
"""

import threading
from typing import Any

from isentrope.errors import BrokerChangedError
from isentrope.learner.intake.clocks import Clocks
from isentrope.learner.intake.feeder import Feeder


class SteppedFeeder(Feeder):
    """A feeder that takes a step when it is told to, or waited for."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._thread = _NoThread()
        self._changed = _Steps(self)
        self._clocks = self.asked = AskedClocks()

    def step(self) -> None:
        """Do once what the thread does again and again; the error that would end it is raised here."""
        try:
            self._meet_again()
            self._round()
        except BrokerChangedError:
            self._lost = True


class AskedClocks(Clocks):
    """Clocks by which only what was asked for is due, once."""

    def __init__(self) -> None:
        super().__init__()
        self.wanted: set[str] = set()

    def quiet_s(self) -> float:
        return float("inf") if "reconcile" in self.wanted else 0.0

    def due(self, what: str, every_s: float) -> bool:
        asked = what in self.wanted
        self.wanted.discard(what)
        return asked


class _NoThread(threading.Thread):
    def start(self) -> None:
        """Nothing runs."""

    def is_alive(self) -> bool:
        return True

    def join(self, timeout: float | None = None) -> None:
        """Nothing ran."""


class _Steps(threading.Condition):
    """A condition whose changes the waiting one makes itself."""

    def __init__(self, feeder: SteppedFeeder) -> None:
        super().__init__()
        self._feeder = feeder

    def wait(self, timeout: float | None = None) -> bool:
        self._feeder.step()
        return True
