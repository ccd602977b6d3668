"""Ctrl-C and SIGTERM: the first asks for an orderly end, the second ends at once."""

import signal
from types import FrameType, TracebackType
from typing import Self

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupts:
    """Counter of interrupts while it is entered; a context manager for the main thread."""

    def __init__(self) -> None:
        self.asked = False
        """True after the first interrupt."""
        self._before = {number: signal.getsignal(number) for number in SIGNALS}

    def __enter__(self) -> Self:
        self.renew()
        return self

    def renew(self) -> None:
        """Take the signals again, after a library that may have put its own handlers in place."""
        for number in SIGNALS:
            signal.signal(number, self._handle)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
