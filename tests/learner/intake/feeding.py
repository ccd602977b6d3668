"""A run with simulated actors: real broker, ports and feeders; engines, training and checkpoint files are missing."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from waits import DEADLINE_S, wait_until
from wire_records import answer, make_actor_port, make_spec

from isentrope.learner.intake.admission import AdmissionRules
from isentrope.learner.intake.buffer import ReadyBatch
from isentrope.learner.intake.feeder import Feeder
from isentrope.learner.intake.intake_facts import CommitFacts, FeederOptions, FeederStatus
from isentrope.learner.intake.ledger import Ledger
from isentrope.learner.intake.run_check import RunCheck
from isentrope.rollout.broker.actor_port import ActorPort, PublishResult
from isentrope.rollout.broker.connection import Broker
from isentrope.rollout.broker.learner_port import LearnerPort
from isentrope.rollout.wire.control import Control, Mode
from isentrope.rollout.wire.types import WorkOrder, version_of
from isentrope.rollout.wire.weights import Manifest, Shard

P = 4


def weights(incarnation: int, batch: int) -> Manifest:
    return Manifest(
        version=version_of(incarnation, batch),
        folder="weights",
        shards=(),
        dtype="float32",
        tensors=Shard(file="tensors.json", size_bytes=0, digest=""),
        canary=None,
        digest=f"{incarnation}.{batch}",
        created=0.0,
    )


def seqs(batch: ReadyBatch) -> list[int]:
    return [group.seq for group in batch.groups]


class WatchedPort(LearnerPort):
    """Counts the feeder's rounds: each begins with issuing what may be issued."""

    rounds = 0

    def issue(self, *, trained_batches: int, retired: int, limit: int, needed: int = 0) -> int:
        cursor = super().issue(trained_batches=trained_batches, retired=retired, limit=limit, needed=needed)
        self.rounds += 1
        return cursor


@dataclass
class Learner:
    """One incarnation; `lineage` is what its weights were trained on."""

    incarnation: int
    port: WatchedPort
    ledger: Ledger
    feeder: Feeder
    lineage: list[list[int]]
    began: FeederStatus
    """Progress before anything new came in."""

    @property
    def version(self) -> int:
        return version_of(self.incarnation, self.ledger.batches)

    def next(self, timeout_s: float = DEADLINE_S) -> ReadyBatch:
        batch = self.feeder.next_batch(timeout_s)
        assert batch is not None, self.feeder.why_waiting()
        return batch

    def train(self, batch: ReadyBatch) -> None:
        self.feeder.trained()
        self.lineage.append(seqs(batch))
        self.feeder.announce(weights(self.incarnation, self.ledger.batches))

    def settle(self, ready: int) -> None:
        """Wait until so many groups are in the buffer."""
        wait_until(lambda: self.feeder.status().ready == ready, lambda: f"{ready} groups: {self.feeder.status()}")

    def retired(self, **reasons: int) -> None:
        """Wait until exactly these were retired."""
        wait_until(lambda: self.feeder.status().retired == reasons, lambda: f"{reasons}: {self.feeder.status()}")

    def issues_no_more(self, actor: "Actor") -> bool:
        """Return whether there is nothing to do for `actor`, after a round of the feeder that began later than this."""
        rounds = self.port.rounds
        wait_until(lambda: self.port.rounds >= rounds + 2, "two rounds of the feeder")
        return not actor.port.take(1, 0.0)


@dataclass
class Checkpoint:
    facts: CommitFacts
    lineage: list[list[int]]


@dataclass
class Run:
    """A run and its checkpoint storage."""

    url: str
    name: str
    batches: int = 4
    max_lag: int = 1
    max_replaced: int = 0
    spec: dict[str, Any] = field(default_factory=dict)
    check: RunCheck | None = None
    claims: int = 0
    checkpoint: Checkpoint | None = None
    brokers: list[Broker] = field(default_factory=list)
    learners: list[Learner] = field(default_factory=list)

    def broker(self) -> Broker:
        self.brokers.append(Broker.connect(self.url, self.name, deadline_s=DEADLINE_S))
        return self.brokers[-1]

    def actor(self, name: str = "a1") -> "Actor":
        return Actor(make_actor_port(self.broker(), name))

    def control(self, mode: Mode) -> Control:
        return Control(mode=mode, max_lag=self.max_lag)

    def learner(
        self, mode: Mode = Mode.ASYNC, before: Callable[[Ledger], None] = lambda _: None, **options: Any
    ) -> Learner:
        """The next incarnation, from the last durable checkpoint; `before` completes its ledger."""
        self.claims += 1
        number = self.claims
        ledger = Ledger(self.checkpoint.facts.ledger if self.checkpoint else None)
        before(ledger)
        spec = make_spec(self.name, prompts_per_batch=P, **self.spec)
        port = WatchedPort.fence(self.broker(), number, ledger.lwm, ledger.cursor, spec, self.control(mode))
        rules = AdmissionRules(
            token_max_lag=self.max_lag, min_kept=0.5, max_replaced=self.max_replaced, check=self.check
        )
        facts = FeederOptions(self.batches, rules, mode, newest_claim=lambda: self.claims, **options)
        lineage = list(self.checkpoint.lineage) if self.checkpoint else []
        feeder = Feeder(port, ledger, facts)
        began = feeder.start(weights(number, ledger.batches))
        learner = Learner(number, port, ledger, feeder, lineage, began)
        self.learners.append(learner)
        return learner

    def save(self, learner: Learner, *, commit: bool = True) -> None:
        facts = learner.feeder.commit_facts()
        self.checkpoint = Checkpoint(facts, list(learner.lineage))
        if commit:
            learner.feeder.commit(facts, f"batch {learner.ledger.batches}")

    def kill(self, learner: Learner) -> None:
        """End a learner without a checkpoint."""
        learner.feeder.stop()

    def close(self) -> None:
        for learner in self.learners:
            learner.feeder.stop()
        for broker in self.brokers:
            broker.close()


@dataclass
class Actor:
    """Answers orders at once."""

    port: ActorPort

    def take(self, count: int) -> list[WorkOrder]:
        """Exactly `count` orders."""
        orders: list[WorkOrder] = []

        def complete() -> bool:
            orders.extend(self.port.take(count - len(orders), 0.1))
            return len(orders) == count

        wait_until(complete, lambda: f"{count} orders instead of {len(orders)}")
        return orders

    def publish(self, order: WorkOrder, version: int, **changes: Any) -> PublishResult:
        return self.port.publish(answer(order, version=version, actor=self.port.actor, **changes), order)

    def work(self, count: int, version: int) -> list[int]:
        """Answer `count` orders by `version`; returns their seqs."""
        orders = self.take(count)
        for order in orders:
            assert self.publish(order, version) is PublishResult.DONE
        return [order.seq for order in orders]


def finish(learner: Learner, actor: Actor, batches: int) -> None:
    """Train up to `batches` with an actor that always has the newest weights."""

    def batch() -> ReadyBatch | None:
        if (ready := learner.feeder.next_batch(0.0)) is None:
            for order in actor.port.take(P, 0.05):
                actor.publish(order, learner.version)
        return ready

    while learner.ledger.batches < batches:
        learner.train(wait_until(batch, learner.feeder.why_waiting))


def assert_exactly_once(run: Run, learner: Learner) -> None:
    """At the end of a run."""
    trained = [seq for batch in learner.lineage for seq in batch]
    status = learner.feeder.status()
    assert len(trained) == len(set(trained)) == status.trained == run.batches * P
    assert status.issued == learner.port.view.cursor() == status.trained + sum(status.retired.values())
    assert all(learner.ledger.known(seq) for seq in range(status.issued))


@contextmanager
def running(url: str, name: str, **changes: Any) -> Iterator[Run]:
    run = Run(url, name, **changes)
    try:
        yield run
    finally:
        run.close()
