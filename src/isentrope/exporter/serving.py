"""The command `exporter`: offers a run's metrics over HTTP until a signal ends it."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from prometheus_client import CollectorRegistry, start_http_server
from rich.console import Console

from isentrope import runfolder
from isentrope.broker_url import requested, require_run
from isentrope.console import say
from isentrope.errors import ConfigError, UnreachableError
from isentrope.exporter.collector import DEADLINE_S, RunCollector
from isentrope.rollout.broker.access import Role
from isentrope.rollout.broker.connection import Broker
from isentrope.rollout.broker.run_view import RunView
from isentrope.rollout.depot.server import Address

WAIT_S = 0.2


@dataclass(frozen=True, slots=True)
class ExporterOptions:
    """Options of `isentrope exporter`. folder: the run's folder or run file, where no `run` is named."""

    folder: Path
    run: str = ""
    redis: str = ""
    bind: str = "127.0.0.1:9464"
    password_file: str = ""
    ca_file: str = ""
    insecure: bool = False


def export(options: ExporterOptions, console: Console) -> int:
    """Offer the metrics; a broker that is away at first is tried again at each scrape."""
    from isentrope.launch.interrupts import Interrupts

    with Interrupts() as interrupts, offered(options, console):
        pause = threading.Event()
        while not interrupts.asked:
            pause.wait(WAIT_S)
    return 0


@contextmanager
def offered(options: ExporterOptions, console: Console) -> Iterator[str]:
    """Offer the metrics while the block runs; yield the URL.

    Raises:
        ConfigError: no broker is given, or its URL or the address cannot be used.
        AccessError: the broker refuses the user or the password.
        RunFolderError: there is no run.
    """
    address, registry = Address.parse(options.bind), CollectorRegistry()
    collector = _collector(options)
    try:
        collector.require_access()
    except UnreachableError as error:
        say(console, f"{error.what.rstrip('.')}; it is tried again at each scrape")
    registry.register(collector)
    try:
        server, thread = start_http_server(address.port, addr=address.host, registry=registry)
    except OSError as error:
        raise ConfigError(f"{options.bind} cannot be used: {error.strerror}", fix="choose another --bind") from None
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


def _collector(options: ExporterOptions) -> RunCollector:
    require_run(options.redis, options.run)
    if not options.run:
        record = runfolder.read_record(runfolder.find(options.folder))
        return RunCollector(record.run, lambda: runfolder.open_view(record, Role.VIEWER, deadline_s=DEADLINE_S))
    url = requested(options.redis, options.password_file, options.ca_file)
    run, insecure = options.run, options.insecure
    return RunCollector(run, lambda: RunView(Broker.connect(url, run, deadline_s=DEADLINE_S, insecure=insecure)))
