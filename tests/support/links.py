"""A proxy between clients and a server of this machine, with the faults of a network."""

import contextlib
import socket
import threading
from collections.abc import Iterator
from enum import StrEnum
from types import TracebackType
from typing import Self

PIECE = 1 << 16

SLOW_BYTES = 64
"""Bytes that a slow link passes on at a time."""

PAUSE_S = 0.05
"""Time between two looks of an idle connection, and between two pieces of a slow one."""


class Fault(StrEnum):
    """What is wrong with a link."""

    NONE = "none"
    CUT = "cut"
    """Connections end, and new ones are refused at once."""
    HALF_OPEN = "half-open"
    """Connections stay, and nothing passes: what is sent is lost, and whoever waits is told nothing."""
    DELAY = "delay"
    """Every piece arrives `delay_s` later."""
    SLOW = "slow"
    """Every piece arrives as a trickle."""


class Link:
    """The proxy, as a context manager."""

    def __init__(self, server: str, delay_s: float = 0.2, receives: int | None = None) -> None:
        """Listen on a free port; `server` is the path of the server's socket.

        receives: bytes that may wait here to be passed on; None: as many as the system likes.
        """
        self._server = server
        self._delay_s = delay_s
        self._fault = Fault.NONE
        self._closed = threading.Event()
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        if receives is not None:
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receives)  # of each that is accepted
        self.sent = 0
        """Bytes that clients have sent."""
        self.met = 0
        """Pieces that the present fault has hit."""
        self.tried = 0
        """Connections that were asked for during the present fault."""
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def place(self) -> str:
        """Where it listens, as a URL has it."""
        return f"127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed.set()
        self._listener.close()
        self._end_connections()

    def bites(self) -> bool:
        """Return True once the present fault was noticed: what is cut off was given up and tried again."""
        return self.tried >= 2 if self._fault in (Fault.CUT, Fault.HALF_OPEN) else self.met >= 4

    @contextlib.contextmanager
    def bad(self, fault: Fault) -> Iterator[None]:
        """Have a fault while the block runs. What was half open stays so: its peer is gone."""
        self.met, self.tried, self._fault = 0, 0, fault
        if fault is Fault.CUT:
            self._end_connections()
        try:
            yield
        finally:
            self._fault = Fault.NONE

    def _end_connections(self) -> None:
        with self._lock:
            for end in self._open:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while not self._closed.is_set():
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            self.tried += 1
            if self._fault is Fault.CUT:
                near.close()
                continue
            far = socket.socket(socket.AF_UNIX)
            far.connect(self._server)
            with self._lock:
                self._open |= {near, far}
            dead = threading.Event()
            for ends in ((near, far), (far, near)):
                threading.Thread(target=self._forward, args=(*ends, dead), daemon=True).start()

    def _forward(self, source: socket.socket, target: socket.socket, dead: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(PIECE):
                self.met += self._fault is not Fault.NONE
                self.sent += len(data) if source.family is socket.AF_INET else 0
                if self._fault is Fault.HALF_OPEN:
                    dead.set()
                if not dead.is_set():
                    self._pass_on(data, target)
        with self._lock:
            self._open -= {source, target}
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def _pass_on(self, data: bytes, target: socket.socket) -> None:
        if self._fault is Fault.DELAY:
            self._closed.wait(self._delay_s)
        while self._fault is Fault.SLOW and data:
            target.sendall(data[:SLOW_BYTES])
            data = data[SLOW_BYTES:]
            self._closed.wait(PAUSE_S)
        target.sendall(data)
