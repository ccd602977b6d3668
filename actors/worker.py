"""A rollout actor as a process: joins a run, starts engine and rewards, serves under one id after another, leaves.

Importing this is light: vLLM is imported once an actor starts.
"""

import asyncio
import contextlib
import gc
import itertools
import logging
import signal
import socket
import threading
import time
from collections.abc import Awaitable, Iterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from isentrope.actors.actor import Actor, LeasesLost, first_error
from isentrope.actors.config import ActorsConfig
from isentrope.actors.deadlines import within
from isentrope.actors.fetches import STOP_S
from isentrope.actors.groups import GroupMaker, Tools
from isentrope.actors.relaying import Offer, Relaying, address_towards
from isentrope.actors.run_files import Joined, Places, RunFiles
from isentrope.actors.scoring import Scorer
from isentrope.errors import ConfigError, DataError, IsentropeError, UnreachableError
from isentrope.long_waits import waiting_for
from isentrope.rollout.broker.actor_port import ActorPort
from isentrope.rollout.broker.connection import Broker
from isentrope.rollout.broker.relay_list import RelayList
from isentrope.rollout.broker.run_view import RunView, new_boot
from isentrope.rollout.config import LeaseConfig
from isentrope.rollout.data.prompts import Prompts, open_prompts
from isentrope.rollout.data.tokenizer import load_tokenizer
from isentrope.rollout.depot.fetching import FetchStopped
from isentrope.rollout.depot.versions import FOLDER as VERSIONS
from isentrope.rollout.wire.control import Control
from isentrope.rollout.wire.spec import RunSpec

if TYPE_CHECKING:
    from isentrope.actors.engine import Engine

OPEN_TIMEOUT_S = 600.0
"""Time an actor that was not given the run's facts waits for a learner to open the run."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ActorOptions:
    """Identity of an actor and the run it joins.

    actor_id: its first id; later ones are `<actor_id>.2`, `<actor_id>.3`. places: where its files come from and go to.
    spec: the run's facts; None: they are read from the broker. insecure: allow a broker on another host without
    password. boot: id of the process from `new_boot`, by which whoever started it knows what it held; empty: it makes
    one. versions: what this process runs with, by name; empty: nobody compares it with the run's.
    """

    url: str
    run: str
    actor_id: str
    places: Places = field(default_factory=Places)
    spec: RunSpec | None = None
    insecure: bool = False
    boot: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)


def main(options: ActorOptions) -> int:
    """Run an actor until SIGTERM, SIGINT, or the run's end; return the exit code."""
    try:
        asyncio.run(_until_signalled(options))
    except IsentropeError as error:
        logger.error("%s", error)
        return error.exit_code
    finally:
        gc.collect()  # vLLM's objects hold each other, and warn if they still exist when the interpreter ends
    return 0


async def serve(options: ActorOptions, drain: asyncio.Event | None = None) -> bool:
    """Run an actor until `drain` is set or the run ends; installs no signal handlers.

    Return False if none is needed in its place: the run has ended for good, or the actor was asked to leave by its id.

    Raises:
        IsentropeError: the actor ended before that; its leases are released if the broker can be reached.
    """
    drain = drain or asyncio.Event()
    broker = await asyncio.to_thread(Broker.connect, options.url, options.run, insecure=options.insecure)
    try:
        spec = options.spec or await _spec(broker, drain)
        if spec is not None:
            _require_alike(spec, options.versions)
            relays = _relaying(broker, options, spec)
            files = RunFiles(spec, options.places, spec.broker_timeout_s, relays)
            try:
                control = await _serve_run(broker, files, options, drain)
                return drain.is_set() or (control is not None and control.goes_on)
            finally:
                if relays is not None:
                    await asyncio.to_thread(relays.close)
        return drain.is_set()
    finally:
        await asyncio.to_thread(broker.close)


async def _until_signalled(options: ActorOptions) -> None:
    drain = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, drain.set)
    await serve(options, drain)


async def _spec(broker: Broker, drain: asyncio.Event) -> RunSpec | None:
    """Return the run's facts, once a learner has opened it; None: `drain` was set before."""
    view, deadline = RunView(broker), time.monotonic() + OPEN_TIMEOUT_S
    with waiting_for(f"a learner to open run {broker.keys.run!r} at {broker.place}"):
        while not drain.is_set():
            try:
                return await asyncio.to_thread(view.spec, 1.0, begun=True)
            except UnreachableError:
                if time.monotonic() > deadline:
                    raise
    return None


def _require_alike(spec: RunSpec, here: Mapping[str, str]) -> None:
    """Raise ConfigError if something that this process has is of another version than the run's."""
    other = {name: version for name, version in spec.versions.items() if here.get(name, version) != version}
    if other:
        has = ", ".join(f"{name} {here[name]}" for name in other)
        wanted = ", ".join(f"{name} {version}" for name, version in other.items())
        raise ConfigError(
            f"{socket.gethostname()} has {has}, and run {spec.run!r} {wanted}", fix="install the same versions here"
        )


def _relaying(broker: Broker, options: ActorOptions, spec: RunSpec) -> Relaying | None:
    """Return this actor's part in passing versions on; None: the run has no relays."""
    if spec.relay_port is None:
        return None
    places = options.places
    address = address_towards(options.url)
    offer = Offer(places.of(spec.run) / VERSIONS, places.access.token, address, spec.relay_port)
    return Relaying(RelayList(broker), offer)


async def _serve_run(broker: Broker, files: RunFiles, options: ActorOptions, drain: asyncio.Event) -> Control | None:
    """Return the run's last state that was seen; None: none was."""
    async with AsyncExitStack() as stack:
        bundle = stack.enter_context(contextlib.ExitStack())
        if not await unpack(bundle, files, drain):
            return None
        spec = files.spec
        run = Joined(spec, config_of(spec), files, options.boot or new_boot())
        tools = asyncio.create_task(equip(stack, spec, run.config))
        try:
            for name in _names(options.actor_id):
                try:
                    return await Actor(ActorPort(broker, name, spec), run, tools, drain).serve()
                except LeasesLost:
                    logger.warning("%s has lost its leases, or its id; it starts under a new one", name)
        finally:
            tools.cancel()
            await asyncio.gather(tools, return_exceptions=True)
    return None


async def unpack(stack: contextlib.ExitStack, files: RunFiles, drain: asyncio.Event) -> bool:
    """Keep the run's bundle on this machine until `stack` is closed; return False if `drain` was set before."""
    stop = threading.Event()
    unpacking = asyncio.create_task(within(None, stack.enter_context, files.unpacked(stop)))
    with waiting_for(f"the bundle of run {files.spec.run!r}, from its depot"):
        leaving = asyncio.create_task(drain.wait())
        await asyncio.wait({unpacking, leaving}, return_when=asyncio.FIRST_COMPLETED)
        leaving.cancel()
        if not unpacking.done():
            stop.set()
            await asyncio.wait({unpacking}, timeout=STOP_S)
    if not unpacking.done():
        unpacking.cancel()
        logger.warning("the fetch of the bundle hangs in its depot, and is given up")
        return False
    try:
        await unpacking
    except FetchStopped:
        return False
    return True


def _names(actor_id: str) -> Iterator[str]:
    yield actor_id
    yield from (f"{actor_id}.{number}" for number in itertools.count(2))


async def equip(stack: AsyncExitStack, spec: RunSpec, config: ActorsConfig) -> Tools:
    """Start engine, rewards and data at the same time; `stack` ends what must be ended."""

    async def started(starting: "Awaitable[Engine]") -> "Engine":
        engine = await starting
        stack.push_async_callback(engine.close)
        return engine

    vllm = await asyncio.to_thread(_engine_module)
    options = vllm.EngineOptions(
        model_dir=spec.model_dir,
        dtype=spec.model.dtype,
        max_model_len=spec.model.max_model_len,
        tensor_parallel_size=config.tensor_parallel_size,
        gpu_memory_utilization=config.gpu_memory_utilization,
        kv_cache_gib=config.kv_cache_gib,
        canary_limit=config.canary_limit,
        start_timeout_s=config.start_timeout_s,
    )
    scorer = Scorer(spec.data, spec.run_folder, workers=config.reward_workers)
    try:
        async with asyncio.TaskGroup() as group:
            engine = group.create_task(started(vllm.Engine.start(options)))
            rewards = group.create_task(stack.enter_async_context(scorer))
            tokenizer = group.create_task(within(None, partial(load_tokenizer, chat=spec.model), spec.model_dir))
            prompts = group.create_task(within(None, prompts_of, spec))
    except BaseExceptionGroup as errors:
        raise first_error(errors) from None
    maker = GroupMaker(
        spec, engine=engine.result(), scorer=rewards.result(), prompts=prompts.result(), tokenizer=tokenizer.result()
    )
    return Tools(engine.result(), maker)


def config_of(spec: RunSpec) -> ActorsConfig:
    """Return the run file's `[actors]`, whose keys that the learner needs too stand in `spec` itself."""
    return ActorsConfig.model_validate(spec.actors | spec.model_dump(include=set(LeaseConfig.model_fields)))


def prompts_of(spec: RunSpec) -> Prompts:
    """Return the run's prompts, read on this host; DataError if they differ from those the run was started with."""
    prompts = open_prompts(spec.data, run_folder=Path(spec.run_folder), seed=spec.seed)
    if prompts.digest != spec.data_digest:
        raise DataError(
            f"this host's dataset (digest {prompts.digest[:12]}) differs from the run's ({spec.data_digest[:12]})",
            where=f"data.train = {spec.data.train!r}, seen from {spec.run_folder}",
            fix="copy the run's files to this host",
        )
    return prompts


def _engine_module() -> ModuleType:
    from isentrope.actors import engine

    return engine
