"""An actor in a run whose learner is the test."""

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from waits import DEADLINE_S, until

from isentrope.actors.actor import Actor
from isentrope.actors.config import ActorsConfig
from isentrope.actors.groups import Generated, GroupMaker, Order, Tools
from isentrope.actors.orders import Changes
from isentrope.actors.run_files import Joined, Places, RunFiles
from isentrope.rollout.broker.actor_port import ActorPort, PublishResult
from isentrope.rollout.broker.connection import Broker
from isentrope.rollout.broker.keys import ACTORS
from isentrope.rollout.broker.learner_port import Entry, LearnerPort
from isentrope.rollout.broker.run_view import ActorState
from isentrope.rollout.wire.codec import decode_group
from isentrope.rollout.wire.control import Control, Mode
from isentrope.rollout.wire.spec import RunSpec
from isentrope.rollout.wire.types import EvalResult, Group, WorkOrder
from isentrope.rollout.wire.validation import Limits

DATA: dict[str, Any] = {"train": "train.jsonl", "eval": "train.jsonl", "reward": "rewards:length"}
SAMPLING: dict[str, Any] = {"group_size": 4, "max_new_tokens": 13}
CONTROL = Control(mode=Mode.ASYNC, max_lag=1000)
T = TypeVar("T")


class HeldGroupMaker(GroupMaker):
    """Makes groups when the test lets it: what is held stays in the making for as long as the test likes."""

    held = 0
    """Groups that have come and may not begin yet."""
    _allowed = math.inf
    _lets = Changes()

    def hold(self) -> None:
        """Begin no more groups."""
        self._allowed = 0

    def let(self, count: float = math.inf) -> None:
        """Let so many more begin, in the order in which they came; all by default."""
        self._allowed += count
        self._lets.tell()

    async def generate(self, order: Order) -> Generated:
        if self._allowed < math.inf:
            self.held += 1
            await self._lets.until(lambda: self._allowed > 0)
            self.held -= 1
        self._allowed -= 1
        return await super().generate(order)


class WatchedPort(ActorPort):
    """Counts the groups for which the broker had no room."""

    refused = 0

    def publish(self, group: Group, order: WorkOrder) -> PublishResult:
        result = super().publish(group, order)
        self.refused += result is PublishResult.FULL
        return result


@dataclass
class Run:
    """One run: the learner's port for the test, and everything an actor needs."""

    spec: RunSpec
    learner: LearnerPort
    actor_broker: Broker
    tools: Tools
    maker: HeldGroupMaker
    config: ActorsConfig = field(default_factory=lambda: ActorsConfig(drain_s=DEADLINE_S))
    drain: asyncio.Event = field(default_factory=asyncio.Event)
    port: WatchedPort = field(init=False)
    seen: list[Entry] = field(default_factory=list)

    @contextlib.asynccontextmanager
    async def actor(self, name: str = "a1") -> "AsyncIterator[asyncio.Task[Any]]":
        """An actor, as long as the context; then it drains, unless it has ended. Its port is `port`."""
        ready: asyncio.Future[Tools] = asyncio.get_running_loop().create_future()
        ready.set_result(self.tools)
        self.port = WatchedPort(self.actor_broker, name, self.spec)
        joined = Joined(self.spec, self.config, RunFiles(self.spec, Places(), self.spec.broker_timeout_s))
        life = asyncio.create_task(Actor(self.port, joined, ready, self.drain).serve())
        try:
            yield life
        finally:
            self.maker.let()
            self.drain.set()
            await asyncio.wait({life})
            self.drain.clear()
        life.result()

    def issue(self, count: int, batch: int = 0) -> None:
        self.learner.issue(trained_batches=batch, retired=0, limit=count)

    async def entries(self, count: int) -> list[Entry]:
        """The next `count` entries; they are dropped from the broker's books only by a commit."""
        return await self._come(count, self.learner.admit, "groups")

    async def groups(self, count: int) -> list[Group]:
        return [self.decode(entry) for entry in await self.entries(count)]

    def decode(self, entry: Entry) -> Group:
        assert entry.kind == "group", (entry.reason, entry.detail)
        limits = Limits(self.spec.vocab_size, self.spec.sampling.group_size)
        return decode_group(entry.header, entry.payload, max_bytes=self.spec.max_record_bytes, limits=limits)

    async def results(self, count: int) -> list[EvalResult]:
        return await self._come(count, self.learner.admit_eval, "results")

    async def _come(self, count: int, admit: Callable[[int, float], list[T]], what: str) -> list[T]:
        got: list[T] = []

        async def complete() -> bool:
            got.extend(await asyncio.to_thread(admit, count - len(got), 0.2))
            return len(got) == count

        await until(complete, lambda: f"{len(got)} of {count} {what}: {self.states()}")
        return got

    def states(self) -> dict[str, ActorState]:
        return {state.id: state for state in self.learner.actors()}

    async def until(self, condition: Callable[[dict[str, ActorState]], bool]) -> None:
        """Wait until the states of all actors are so."""
        await until(lambda: condition(self.states()), lambda: f"other states than {self.states()}")

    async def leased(self, count: int) -> None:
        """Wait until so many training orders are leased."""
        await until(lambda: self.leases() == count, lambda: f"{count} leases instead of {self.leases()}")

    async def refused(self, count: int) -> None:
        """Wait until the broker has refused groups so many times more."""
        before = self.port.refused
        await until(lambda: self.port.refused >= before + count, lambda: f"{count} refusals: {self.states()}")

    async def leased_evals(self, count: int) -> None:
        """Wait until so many evaluation orders are leased."""
        await until(lambda: self._pending_evals() == count, lambda: f"{count} leases of {self._pending_evals()}")

    def leases(self) -> int:
        return self.learner.view.queues()["leased"]

    def _pending_evals(self) -> int:
        broker = self.learner.broker
        return int(broker.run(lambda client: client.xpending(broker.keys.eval, ACTORS))["pending"])


Start = Callable[..., Run]
Play = Callable[[Awaitable[None]], None]
