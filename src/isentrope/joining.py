"""The commands of machines other than a run's own: an actor that joins it, and a depot that offers its files."""

import asyncio
import dataclasses
import logging
import os
import secrets
from pathlib import Path

from rich.console import Console

from isentrope import runfolder
from isentrope.broker_url import requested, url_for
from isentrope.check import cuda, install
from isentrope.console import say
from isentrope.environment import TOKEN_VARIABLE, forget, set_defaults
from isentrope.rollout.broker.access import Role
from isentrope.rollout.config import RedisConfig
from isentrope.runfile import raise_all

WAIT_S = 0.2


@dataclasses.dataclass(frozen=True, slots=True)
class JoinOptions:
    """Options of `isentrope actor`; empty ones have their defaults."""

    run: str
    redis: str = ""
    password_file: str = ""
    name: str = ""
    depot: str = ""
    cache: Path = Path()
    ca_file: str = ""
    insecure: bool = False
    stopped_code: int = 0
    """Exit code where another actor is needed in this one's place, now or when the run goes on."""


def join(options: JoinOptions) -> int:
    """Run an actor of a run whose learner is elsewhere."""
    _begin()
    from isentrope.actors.run_files import Places
    from isentrope.actors.worker import ActorOptions
    from isentrope.launch.actor_process import serve
    from isentrope.launch.depot import depot_token
    from isentrope.launch.logs import FORMAT
    from isentrope.rollout.depot.access import Access
    from isentrope.rollout.depot.interface import check_url

    logging.basicConfig(level=logging.INFO, format=FORMAT)
    url = requested(options.redis, options.password_file, options.ca_file)
    check_url(options.depot)
    name = options.name or f"{runfolder.host().partition('.')[0]}-{os.getpid()}-{secrets.token_hex(3)}"
    places = Places(options.depot, options.cache, Access(depot_token(url, options.run), options.ca_file))
    forget([RedisConfig().url_env, TOKEN_VARIABLE])
    needed = asyncio.run(serve(ActorOptions(url, options.run, name, places, insecure=options.insecure)))
    return options.stopped_code if needed else 0


def join_per_gpu(options: JoinOptions) -> int:
    """Run an actor for each share of this machine's GPUs."""
    _begin()
    from isentrope.launch.logs import FORMAT
    from isentrope.launch.per_gpu import Machine, join

    more = ["--depot", options.depot] if options.depot else []
    more += ["--cache", str(options.cache)] if options.cache != Path() else []
    more += ["--ca", options.ca_file] if options.ca_file else []
    more += ["--insecure"] if options.insecure else []
    more += ["--stopped-code", str(options.stopped_code)] if options.stopped_code else []
    logging.basicConfig(level=logging.INFO, format=FORMAT)
    url = requested(options.redis, options.password_file, options.ca_file)
    return join(Machine(url, options.run, options.name, options.insecure, tuple(more), options.stopped_code))


def _begin() -> None:
    """Prepare for actors on this machine; raise all that would keep an engine from starting here."""
    set_defaults()
    raise_all([*install.missing("actor"), *cuda.failures()])


@dataclasses.dataclass(frozen=True, slots=True)
class DepotOptions:
    """Options of `isentrope depot`. cert_file, key_file: as in `Address`."""

    bind: str
    cert_file: str = ""
    key_file: str = ""
    insecure: bool = False


def serve_depot(run: Path, options: DepotOptions, console: Console) -> int:
    """Offer a run's published files over HTTP until a signal ends it."""
    from isentrope.launch.depot import depot_token, served
    from isentrope.launch.interrupts import Interrupts
    from isentrope.rollout.depot.server import Address

    address = Address.parse(options.bind, options.cert_file, options.key_file)
    folder = runfolder.find(run)
    record = runfolder.read_record(folder)
    token = depot_token(url_for(Role.ACTOR, record), record.run)
    with Interrupts() as interrupts, served(folder, address, token, insecure=options.insecure) as server:
        say(console, f"{folder} is offered at {server.url}")
        while server.runs and not interrupts.asked:
            server.wait(WAIT_S)
    return 0
