"""Environment that a process of the command sets for itself, on its machine, before it imports anything heavy.

Nothing that a machine's administrator has set is overridden: what differs between machines is decided on each.
"""

import contextlib
import socket
from dataclasses import dataclass

import psutil

from isentrope import environment
from isentrope.environment import LOOPBACK


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Settings of the environment of all processes that a command starts."""

    cpu: bool
    """Work without a GPU."""
    head: str = ""
    """Host of the cluster's head; empty: all processes share this machine."""
    interface: str = ""
    """Network interface of groups on every machine; empty: each machine's own choice."""
    secrets: tuple[str, ...] = ()
    """Variables of the command that no other process needs: each is told its own secrets alone."""

    def enter(self, *, alone: bool) -> None:
        """Set this process's environment. `alone`: all the processes it meets are on its own machine."""
        environment.forget_command_folder()
        environment.forget(self.secrets)
        here = LOOPBACK if alone or not self.head else route(self.head)
        environment.set_defaults(cpu=self.cpu, interface=here)
        if self.interface and not alone:
            environment.use_interface(self.interface)


def route(host: str) -> str:
    """Return the network interface by which this machine reaches `host`; empty: none is found.

    A machine's own name may point to a loopback address, by which other machines cannot reach it.
    """
    with contextlib.suppress(OSError):
        kind, _, _, _, place = socket.getaddrinfo(host, 1, type=socket.SOCK_DGRAM)[0]
        with socket.socket(kind, socket.SOCK_DGRAM) as asked:
            asked.connect(place)  # sends nothing
            return _interface_of(asked.getsockname()[0])
    return ""


def _interface_of(address: str) -> str:
    for name, addresses in psutil.net_if_addrs().items():
        if any(each.address.partition("%")[0] == address for each in addresses):
            return str(name)
    return LOOPBACK if address.startswith("127.") else ""
