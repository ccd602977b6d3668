"""Connections to the server whose time limit is on progress, not on a whole command.

Python's time limit of a socket bounds all of `sendall`: a record of some megabytes over a slow link would never arrive.
So long arguments are sent in pieces, each with the whole limit. What the kernel has taken counts as sent, and the reply
has a limit too: the kernel is told to hold little that has not left yet.
"""

import socket
from collections.abc import Iterable, Iterator
from typing import Any

import redis
from redis.connection import AbstractConnection

PIECE = 64 << 10
"""Bytes that must leave within one time limit."""

UNSENT = 128 << 10
"""Bytes that the kernel may hold before they leave."""

NOTSENT_LOWAT = 25
"""Linux's number of the option, which Python does not name."""

FAMILIES = {socket.AF_INET, socket.AF_INET6}


class InPieces(AbstractConnection):
    """The part that all kinds of connections share."""

    def send_packed_command(self, command: Iterable[bytes], check_health: bool = True) -> None:
        """Send a packed command, in pieces."""
        super().send_packed_command(pieces(command), check_health)  # type: ignore[no-untyped-call]

    def _connect(self) -> Any:
        connected: socket.socket = super()._connect()  # type: ignore[safe-super, no-untyped-call]
        if connected.family in FAMILIES:
            connected.setsockopt(socket.IPPROTO_TCP, NOTSENT_LOWAT, UNSENT)
            connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        return connected


class TcpConnection(InPieces, redis.Connection):
    """Connection by TCP."""


class TlsConnection(InPieces, redis.SSLConnection):
    """Connection by TLS."""


class UnixConnection(InPieces, redis.UnixDomainSocketConnection):
    """Connection by a Unix socket."""


KINDS = {
    redis.Connection: TcpConnection,
    redis.SSLConnection: TlsConnection,
    redis.UnixDomainSocketConnection: UnixConnection,
}
"""Kind that takes the place of each of the client's own."""


def pieces(command: Iterable[bytes]) -> Iterator[bytes | memoryview]:
    """Yield a packed command, no part longer than `PIECE`."""
    for item in command:
        if len(item) <= PIECE:
            yield item
        else:
            whole = memoryview(item)
            yield from (whole[start : start + PIECE] for start in range(0, len(item), PIECE))
