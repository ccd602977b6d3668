"""An actor in a run whose learner is the test."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from isentrope.actors.actor import Actor
from isentrope.actors.config import ActorsConfig
from isentrope.actors.groups import Tools
from isentrope.rollout.broker.actor_port import ActorPort
from isentrope.rollout.broker.connection import Broker
from isentrope.rollout.broker.learner_port import Entry, LearnerPort
from isentrope.rollout.broker.run_view import ActorState
from isentrope.rollout.wire.codec import decode_group
from isentrope.rollout.wire.control import Control, Mode
from isentrope.rollout.wire.spec import RunSpec
from isentrope.rollout.wire.types import EvalResult, Group

TIMEOUT_S = 60.0
DATA: dict[str, Any] = {"train": "train.jsonl", "eval": "train.jsonl", "reward": "rewards:length"}
SAMPLING: dict[str, Any] = {"group_size": 4, "max_new_tokens": 13}
CONTROL = Control(mode=Mode.ASYNC, max_lag=1000)


@dataclass
class Run:
    """One run: the learner's port for the test, and everything an actor needs."""

    spec: RunSpec
    learner: LearnerPort
    actor_broker: Broker
    tools: Tools
    config: ActorsConfig = field(default_factory=lambda: ActorsConfig(drain_s=20.0))
    drain: asyncio.Event = field(default_factory=asyncio.Event)
    seen: list[Entry] = field(default_factory=list)

    @contextlib.asynccontextmanager
    async def actor(self, name: str = "a1") -> "AsyncIterator[asyncio.Task[None]]":
        """An actor, as long as the context; then it drains, unless it has ended."""
        ready: asyncio.Future[Tools] = asyncio.get_running_loop().create_future()
        ready.set_result(self.tools)
        port = ActorPort(self.actor_broker, name, heartbeat_s=self.spec.heartbeat_s)
        life = asyncio.create_task(Actor(port, self.spec, self.config, ready, self.drain).serve())
        try:
            yield life
        finally:
            self.drain.set()
            await asyncio.wait({life})
            self.drain.clear()
        life.result()

    def issue(self, count: int, batch: int = 0) -> None:
        self.learner.issue(trained_batches=batch, retired=0, limit=count)

    async def entries(self, count: int) -> list[Entry]:
        """The next `count` entries; they are dropped from the broker's books only by a commit."""
        deadline = time.monotonic() + TIMEOUT_S
        got: list[Entry] = []
        while len(got) < count:
            assert time.monotonic() < deadline, f"{len(got)} of {count} groups: {self.states()}"
            got += await asyncio.to_thread(self.learner.admit, count - len(got), 0.2)
        return got

    async def groups(self, count: int) -> list[Group]:
        return [self.decode(entry) for entry in await self.entries(count)]

    def decode(self, entry: Entry) -> Group:
        assert entry.kind == "group", (entry.reason, entry.detail)
        limits = {"max_bytes": self.spec.max_record_bytes, "vocab_size": self.spec.vocab_size}
        return decode_group(entry.header, entry.payload, group_size=self.spec.sampling.group_size, **limits)

    async def results(self, count: int) -> list[EvalResult]:
        deadline = time.monotonic() + TIMEOUT_S
        got: list[EvalResult] = []
        while len(got) < count:
            assert time.monotonic() < deadline, f"{len(got)} of {count} results: {self.states()}"
            got += await asyncio.to_thread(self.learner.admit_eval, count - len(got), 0.2)
        return got

    def states(self) -> dict[str, ActorState]:
        return {state.id: state for state in self.learner.actors()}

    async def until(self, condition: Callable[[dict[str, ActorState]], bool]) -> None:
        deadline = time.monotonic() + TIMEOUT_S
        while not condition(states := await asyncio.to_thread(self.states)):
            assert time.monotonic() < deadline, states
            await asyncio.sleep(0.02)

    def leases(self) -> int:
        return self.learner.view.queues()["leased"]


Start = Callable[..., Run]
Play = Callable[[Awaitable[None]], None]
