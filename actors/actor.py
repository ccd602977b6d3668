"""An actor under one id: from joining a run until it leaves, or finds that its leases were revoked.

Four loops: `_beat` sends heartbeats, `_listen` reads what the news are about, `_follow` keeps the engine up to date and
takes evaluation orders, `_lease` takes training orders. Does not import vLLM.
"""

import asyncio
import contextlib
import logging
import os
import socket
import time
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from isentrope.actors.broker_calls import BrokerCaller
from isentrope.actors.decisions import ActorSituation, is_stale, next_load, takes_groups
from isentrope.actors.fetches import Fetch, forget
from isentrope.actors.groups import Tools
from isentrope.actors.orders import Changes, Orders
from isentrope.actors.run_files import Joined, Wanted
from isentrope.errors import IsentropeError, NameTakenError, StorageError, UnreachableError
from isentrope.long_waits import waiting_for
from isentrope.rollout.broker.actor_port import ActorPort
from isentrope.rollout.broker.connection import BLOCK_S
from isentrope.rollout.broker.news import Topic
from isentrope.rollout.broker.run_view import ActorStage, ActorState
from isentrope.rollout.wire.control import Control, RunState
from isentrope.rollout.wire.types import EvalOrder
from isentrope.rollout.wire.weights import Announcement

if TYPE_CHECKING:
    from isentrope.actors.engine import Engine

STRAY_BEATS = 4
"""Heartbeats between two searches for leases that a lost reply has left."""

LOAD_TRIES = 5
"""Failed loads of the newest weights in a row after which the actor ends."""

LOAD_PAUSE_S = 1.0

logger = logging.getLogger(__name__)


class LeasesLost(Exception):
    """The broker has revoked this actor's leases, or shows another process under its id. Only a new id may go on."""


@dataclass(frozen=True, slots=True)
class _Seen:
    """The last state read from the broker; see `ActorSituation`. leave_s: time to leave in, if somebody asks for it."""

    control: Control | None = None
    newest: Announcement | None = None
    asked: int = 0
    my_turn: bool = False
    leave_s: float | None = None


class Actor:
    """One actor under one id. `serve` is called once."""

    def __init__(self, port: ActorPort, run: Joined, tools: asyncio.Future[Tools], drain: asyncio.Event) -> None:
        """Prepare; `serve` runs the actor.

        Args:
            port: the broker, under the actor's id.
            run: what it has joined.
            tools: may still be starting.
            drain: set it to let the actor finish its orders and leave.
        """
        self._port = port
        self._spec = spec = run.spec
        self._config = run.config
        self._files = run.files
        self._fetch: Fetch | None = None
        self._tools = tools
        self._drain = drain
        self._call = BrokerCaller(spec.broker_timeout_s, run.config.start_timeout_s)
        self._changes = Changes()
        self._beat_now = asyncio.Event()
        self._looking = asyncio.Lock()
        self._entered = False
        """True while the id is this process's."""
        skip_too_long = spec.data.too_long == "skip"
        self._orders = Orders(port, tools, skip_too_long=skip_too_long, call=self._call, changes=self._changes)
        self._seen = _Seen()
        self._grace_s: float | None = None
        self._last_error = ""
        self._load_failures = self._refused = 0
        self._load_s, self._failed = 0.0, False
        self._boot = run.boot
        self._counted = (0, time.monotonic())

    async def serve(self) -> Control | None:
        """Take and fulfil orders until the actor has left; return the run's last state that it saw.

        Raises:
            LeasesLost: the leases were revoked; go on under another id.
            IsentropeError: an error that ends the actor.
        """
        try:
            async with asyncio.TaskGroup() as self._tasks:
                running = (self._beat(), self._listen(), self._follow(), self._lease(), self._watch_drain())
                loops = [self._tasks.create_task(loop) for loop in running]
                for loop in loops:
                    loop.add_done_callback(lambda _: self._port.interrupt())  # else the others would end after it
                await self._changes.until(lambda: self._grace_s is not None)
                await self._orders.finish(self._grace_s or 0.0)
                for loop in loops:
                    loop.cancel()
        except BaseExceptionGroup as group:
            error = first_error(group)
            if self._grace_s is None or not isinstance(error, UnreachableError):
                self._failed = isinstance(error, IsentropeError)
                raise error from None
            logger.warning("while leaving: %s", error)
        finally:
            if self._entered:
                await self._hand_back()
        return self._seen.control

    # --- heartbeat and leaving

    async def _beat(self) -> None:
        beats = 0
        while not await self._call(self._port.enter, self._boot):
            logger.info("the id %s was another process's, which is silent; waiting for its end", self._port.actor)
            await asyncio.sleep(self._spec.heartbeat_s)
        self._entered = True
        self._changes.tell()
        while True:
            self._beat_now.clear()
            try:
                if not await self._call(self._port.heartbeat, self._state()):
                    raise LeasesLost
            except NameTakenError as error:  # by a process that found this one silent, or by one that lies
                logger.warning("%s", error.what)
                self._entered = False  # the leases and the record are another's
                raise LeasesLost from None
            await self._call(self._port.reap)
            beats += 1
            if beats % STRAY_BEATS == 0:
                await self._call(self._port.refresh, [])
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._spec.heartbeat_s):  # `wait_for` of 3.11 may swallow a cancellation
                    await self._beat_now.wait()

    def _state(self) -> ActorState:
        tokens, since = self._counted
        self._counted = self._orders.tokens, time.monotonic()
        engine = self._tools.result().engine if self._tools.done() else None
        manifest = engine.manifest if engine is not None else None
        return ActorState(
            id=self._port.actor,
            host=socket.gethostname(),
            pid=os.getpid(),
            state=self._stage(),
            version=manifest.version if manifest is not None else 0,
            digest=manifest.digest if manifest is not None else "",
            fetching=self._fetch.version if self._fetch is not None else 0,
            proof=engine.proof if engine is not None else None,
            refused=self._refused,
            engine_silent_s=round(engine.silent_s, 1) if engine is not None else 0.0,
            load_s=round(self._load_s, 3),
            leases=len(self._orders),
            tokens_per_s=round((self._orders.tokens - tokens) / (self._counted[1] - since + 1e-3), 1),
            boot=self._boot,
            last_error=self._last_error,
        )

    def _stage(self) -> ActorStage:
        if self._grace_s is not None:
            return ActorStage.DRAINING
        if not self._tools.done():
            return ActorStage.JOINING
        situation, control = self._situation(), self._seen.control
        if not situation.loaded:
            return ActorStage.DIRTY if self._load_failures else ActorStage.SYNCING
        if control is not None and is_stale(situation.loaded, situation.newest, max_lag=control.lag):
            return ActorStage.STALE
        return ActorStage.SERVING

    def _announce(self) -> None:
        """Send the next heartbeat now, because this actor's state has changed."""
        self._beat_now.set()
        self._changes.tell()

    async def _watch_drain(self) -> None:
        await self._drain.wait()
        self._begin_to_leave(self._config.drain_s)

    def _begin_to_leave(self, grace_s: float) -> None:
        if self._grace_s is None:
            logger.info("%s leaves; %d orders may take %.0f s more", self._port.actor, len(self._orders), grace_s)
            self._grace_s = grace_s
            self._announce()
            self._port.interrupt()  # nothing that comes matters any more

    async def _hand_back(self) -> None:
        """Release all leases, also after they were revoked: an order taken just then would have no live actor."""
        try:
            await asyncio.to_thread(self._port.leave, failed=self._failed)
        except IsentropeError as error:
            logger.warning("%s could not hand back its leases, others will take them: %s", self._port.actor, error)

    # --- news

    async def _listen(self) -> None:
        while self._grace_s is None:
            topics = await self._call(self._port.news.wait, BLOCK_S)
            if topics:
                await self._look(topics)

    async def _look(self, topics: AbstractSet[Topic]) -> None:
        """Read what the topics are about. Whoever looks last has the newest state: no two looks overlap."""
        async with self._looking:
            seen = self._seen = await self._call(self._read, topics, self._loaded)
        self._changes.tell()
        if seen.control is not None and seen.control.state is not RunState.RUN:
            self._begin_to_leave(0.0 if seen.control.state is RunState.STOP else self._config.drain_s)
        if seen.leave_s is not None:
            self._begin_to_leave(seen.leave_s)

    def _read(self, topics: AbstractSet[Topic], loaded: int) -> _Seen:
        """Read the broker, in a thread. What a broker that came back empty does not show stays as before.

        Weights before evaluations: an order for the loaded version that came before newer weights must be seen first.
        """
        view, seen = self._port.view, self._seen
        if Topic.CONTROL in topics:
            seen = replace(seen, control=view.control_state() or seen.control)
        if Topic.LEAVE in topics:
            seen = replace(seen, leave_s=self._port.asked_to_leave())
        if Topic.WEIGHTS in topics:
            seen = replace(seen, newest=view.announcement() or seen.newest)
        if topics & {Topic.EVAL, Topic.WEIGHTS}:
            asked = self._port.eval_version(loaded) or 0
            newest = 0 if seen.newest is None else seen.newest.manifest.version
            turn = loaded > 0 and 0 < asked < newest and self._grace_s is None and self._port.my_turn(asked)
            seen = replace(seen, asked=asked, my_turn=turn)
        return seen

    # --- weights

    async def _follow(self) -> None:
        engine = (await asyncio.shield(self._tools)).engine
        watch = self._tasks.create_task(engine.wait_dead())
        self._announce()
        try:
            await self._await_weights()
            while True:
                situation = self._situation()
                if version := next_load(situation):
                    await self._fetch_or_load(engine, version)
                elif self._takes_evals():
                    await self._take_evals(situation)
                else:
                    await self._changes.until(lambda: next_load(self._situation()) > 0 or self._takes_evals())
        finally:
            watch.cancel()
            await self._end_fetch()

    async def _await_weights(self) -> None:
        try:
            with waiting_for(f"the learner of {self._spec.run} to announce weights"):
                async with asyncio.timeout(self._config.start_timeout_s):
                    await self._changes.until(lambda: self._seen.newest is not None)
        except TimeoutError:
            raise self._no_weights() from None

    @property
    def _loaded(self) -> int:
        return self._tools.result().engine.version if self._tools.done() else 0

    def _situation(self) -> ActorSituation:
        seen, orders = self._seen, self._orders
        return ActorSituation(
            loaded=self._loaded,
            newest=seen.newest.manifest.version if seen.newest is not None else 0,
            asked=seen.asked,
            groups=orders.groups_in_engine,
            evals=orders.evals_in_engine,
            my_turn=seen.my_turn,
        )

    async def _fetch_or_load(self, engine: "Engine", version: int) -> None:
        """Take the next step to a version that is to be loaded: fetch its files beside everything else, then load it.

        One that was begun is finished although a newer one was announced meanwhile: a slow link would never end one.
        """
        newest = self._seen.newest
        assert newest is not None
        if self._fetch is None:
            manifest = newest.manifest if version == newest.manifest.version else None
            wanted = Wanted(version, manifest, newest.depots)
            self._fetch = Fetch(self._files, wanted, self._changes.tell)
        fetch = self._fetch
        with waiting_for(f"the files of version {fetch.version}, from the depot"):
            await self._changes.until(lambda: fetch.done or not next_load(self._situation()))
        if fetch.done:
            if fetch.version == version or fetch.version > engine.version:
                await self._load(engine, fetch)
            await self._end_fetch()

    async def _load(self, engine: "Engine", fetch: Fetch) -> None:
        started, version = time.monotonic(), fetch.version
        try:
            await engine.load(fetch.result())
        except StorageError as error:
            logger.warning("%s cannot load version %d: %s", self._port.actor, version, error)
            self._last_error = error.what
            self._refused += 1
            await self._after_failure(version, error)
        else:
            self._load_failures, self._last_error = 0, ""
            self._load_s = time.monotonic() - started
            logger.info("%s serves version %d (%.0f ms)", self._port.actor, version, 1e3 * self._load_s)
            self._announce()
            await self._look({Topic.EVAL})

    async def _after_failure(self, version: int, error: StorageError) -> None:
        """Try the newest version again, a few times; give up an older one, and the evaluations that asked for it."""
        newest = self._seen.newest
        assert newest is not None
        if version == self._seen.asked and version < newest.manifest.version:
            for order in await self._eval_orders(version, self._config.max_concurrent_groups):
                await self._orders.give_up(order, "weights", error)
            await self._look({Topic.EVAL})
            return
        self._load_failures += 1
        if self._load_failures == LOAD_TRIES:
            raise error
        self._announce()
        await self._end_fetch()
        if version == newest.manifest.version:
            await forget(self._files, newest.manifest)
        await asyncio.sleep(LOAD_PAUSE_S)

    async def _end_fetch(self) -> None:
        """Let the fetched files go; a fetch that is on its way is stopped."""
        if self._fetch is not None:
            fetch, self._fetch = self._fetch, None
            await fetch.close()

    def _no_weights(self) -> UnreachableError:
        return UnreachableError(
            f"no weights were announced for {self._config.start_timeout_s:.0f} s",
            where=f"run {self._spec.run}",
            fix="see the learner's log; raise actors.start_timeout_s if it only needs more time",
        )

    # --- orders

    async def _lease(self) -> None:
        while True:
            await self._changes.until(self._wants_groups)
            orders = await self._call(self._port.take, self._free(), BLOCK_S)
            if self._grace_s is None:  # else they are handed back with all others
                self._orders.begin(orders, self._tasks)

    def _wants_groups(self) -> bool:
        return self._takes_more and takes_groups(self._situation()) and self._free() > 0

    @property
    def _takes_more(self) -> bool:
        return self._entered and self._grace_s is None and not self._orders.no_room

    def _free(self) -> int:
        """Return the number of groups to take: up to the limit in the engine, and as many finished ones."""
        limit = self._config.max_concurrent_groups
        return min(limit - self._orders.groups_in_engine, 2 * limit - self._orders.groups)

    def _takes_evals(self) -> bool:
        """Return True if evaluation orders of the loaded version wait, and there is a free place."""
        situation = self._situation()
        return self._takes_more and situation.asked == situation.loaded > 0 and self._free_evals(situation) > 0

    def _free_evals(self, situation: ActorSituation) -> int:
        return self._config.max_concurrent_groups - situation.evals

    async def _take_evals(self, situation: ActorSituation) -> None:
        """Take evaluation orders of the loaded version, beside the training orders; look whether more of them wait."""
        orders = await self._eval_orders(situation.loaded, self._free_evals(situation))
        self._orders.begin(orders, self._tasks)
        await self._look({Topic.EVAL})

    async def _eval_orders(self, version: int, count: int) -> list[EvalOrder]:
        return await self._call(self._port.take_eval, count, 0.0, version)


def first_error(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the first error of a task group: those that follow are mostly its consequences."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
