"""The command `exporter`: offers a run's metrics over HTTP until a signal ends it."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, start_http_server
from rich.console import Console

from isentrope.console import say
from isentrope.errors import UnreachableError
from isentrope.exporter.collector import DEADLINE_S, RunCollector
from isentrope.rollout.broker.access import Role
from isentrope.rollout.depot.server import Address
from isentrope.run_place import RunPlace

WAIT_S = 0.2


def export(place: RunPlace, bind: str, console: Console) -> int:
    """Offer the metrics at `ADDR:PORT`; a broker that is away at first is tried again at each scrape."""
    from isentrope.launch.interrupts import Interrupts

    with Interrupts() as interrupts, offered(place, bind, console):
        pause = threading.Event()
        while not interrupts.asked:
            pause.wait(WAIT_S)
    return 0


@contextmanager
def offered(place: RunPlace, bind: str, console: Console) -> Iterator[str]:
    """Offer the metrics while the block runs; yield the URL.

    Raises:
        ConfigError: no broker is given, or its URL cannot be used.
        UnreachableError: the address cannot be used.
        AccessError: the broker refuses the user or the password.
        RunFolderError: there is no run.
    """
    address, registry = Address.parse(bind), CollectorRegistry()
    way = place.way(Role.VIEWER, deadline_s=DEADLINE_S)
    collector = RunCollector(way.run, way.open)
    try:
        collector.require_access()
    except UnreachableError as error:
        say(console, f"{error.what.rstrip('.')}; it is tried again at each scrape")
    registry.register(collector)
    try:
        server, thread = start_http_server(address.port, addr=address.host, registry=registry)
    except OSError as error:
        raise UnreachableError(
            f"the exporter cannot listen at {bind}: {error.strerror}",
            fix="choose a free port, and an address of this machine",
        ) from None
    try:
        host = f"[{address.host}]" if ":" in address.host else address.host
        url = f"http://{host}:{server.server_address[1]}/metrics"
        say(console, f"{collector.run} is offered at {url}")
        yield url
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
        collector.close()
