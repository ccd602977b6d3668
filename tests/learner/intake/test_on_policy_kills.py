"""What an on-policy run trains does not depend on kills: for every batch the same seqs, seeds and weights.

Two learners have the same weights exactly if they have trained the same groups, and a group is a function of its order
and the weights. So the digest of the weights is a hash chain over what was trained, and the content of a group, its
outcome included, a hash of seq, seeds and the digest that its actor has. Undisturbed, that is a function of nothing.
"""

import hashlib
import itertools
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from feeding import P, weights
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from stepped import SteppedFeeder
from wire_records import VOCABULARY, answer, make_actor_port, make_response, make_spec

from isentrope.learner.intake.admission import AdmissionRules
from isentrope.learner.intake.buffer import ReadyBatch
from isentrope.learner.intake.intake_facts import CommitFacts, FeederOptions
from isentrope.learner.intake.ledger import Ledger
from isentrope.rollout.broker.connection import Broker
from isentrope.rollout.broker.learner_port import LearnerPort
from isentrope.rollout.wire.control import Control, Mode
from isentrope.rollout.wire.seeds import sampling_seed
from isentrope.rollout.wire.types import Group, WorkOrder, version_of

BATCHES = 4
REPLACED = 3
"""Groups of one outcome that a batch may replace: some batches meet more."""
START = "start"

Trained = tuple[tuple[int, int, tuple[int, ...]], ...]
"""Of one batch: seq, attempt and seeds of each group."""


def drawn(*what: object) -> int:
    """A number that is a function of `what` alone."""
    return int.from_bytes(hashlib.sha256(repr(what).encode()).digest()[:4], "little")


def seeds(seq: int, attempt: int) -> tuple[int, ...]:
    return tuple(sampling_seed(1, seq, attempt, index) for index in range(2))


def has_one_outcome(seq: int, digest: str) -> bool:
    return drawn("outcome", seq, digest) % 2 == 0


def fails(seq: int, digest: str) -> bool:
    """Whether no response can be made: the order is given up."""
    return drawn("fails", seq, digest) % 6 == 0


def trained_on(digest: str, batch: Trained) -> str:
    return hashlib.sha256(repr((digest, batch)).encode()).hexdigest()


def undisturbed() -> list[tuple[str, Trained]]:
    """Of every batch: the weights before it, and what was trained."""
    digest, seq, history = START, itertools.count(), list[tuple[str, Trained]]()
    for _ in range(BATCHES):
        groups, replaced = list[tuple[int, int, tuple[int, ...]]](), 0
        while len(groups) < P:
            this = next(seq)
            if fails(this, digest):
                continue
            if has_one_outcome(this, digest) and replaced < REPLACED:
                replaced += 1
            else:
                groups.append((this, 0, seeds(this, 0)))
        history.append((digest, tuple(groups)))
        digest = trained_on(digest, tuple(groups))
    return history


@dataclass
class Storage:
    """What survives a learner: its last checkpoint, and the digest of each version."""

    facts: CommitFacts | None = None
    digest: str = START
    digests: dict[int, str] = field(default_factory=dict)
    learners: int = 0
    history: dict[int, tuple[str, Trained]] = field(default_factory=dict)

    def trained(self, batch: int, what: tuple[str, Trained]) -> None:
        """A batch that is trained again is the same."""
        assert self.history.setdefault(batch, what) == what


class Life:
    """One learner after the other, and one actor that sees the newest weights late."""

    def __init__(self, url: str) -> None:
        self.broker = Broker.connect(url, f"kills-{uuid.uuid4().hex}")
        self.storage = Storage()
        self.actor = make_actor_port(self.broker, "a1")
        self.held: list[tuple[WorkOrder, int]] = []
        """Orders, and the version that each was begun with."""
        self.served = 0
        self.planned: ReadyBatch | None = None
        self.start()

    def start(self) -> None:
        storage = self.storage
        storage.learners += 1
        self.ledger = Ledger(storage.facts.ledger if storage.facts else None)
        self.digest, self.planned = storage.digest, None
        spec = make_spec(self.broker.keys.run, prompts_per_batch=P)
        control = Control(mode=Mode.ON_POLICY, max_lag=1)
        self.number = storage.learners
        port = LearnerPort.fence(self.broker, self.number, self.ledger.lwm, self.ledger.cursor, spec, control)
        rules = AdmissionRules(token_max_lag=1, min_kept=0.5, max_replaced=REPLACED)
        options = FeederOptions(BATCHES, rules, Mode.ON_POLICY, lambda: storage.learners, admit_s=0.0)
        self.feeder = SteppedFeeder(port, self.ledger, options)
        storage.digests[self.version] = self.digest
        self.feeder.start(weights(self.number, self.ledger.batches))

    @property
    def version(self) -> int:
        return version_of(self.number, self.ledger.batches)

    # --- what may happen

    def load(self) -> None:
        """The actor takes over the newest weights, also in the middle of what it generates."""
        self.served = self.version

    def take(self) -> None:
        if self.served:
            self.held += [(order, self.served) for order in self.actor.take(2, 0.0)]

    def publish(self, place: int = 0) -> None:
        if self.held:
            order, begun = self.held.pop(place)
            if self.served >= order.min_version and fails(order.seq, self.storage.digests[self.served]):
                self.actor.fail(order, "reward", "raised", version=begun)
            else:
                self.actor.publish(self.generated(order, begun), order)

    def publish_last(self) -> None:
        """What was taken last is ready first."""
        self.publish(-1)

    def forget(self) -> None:
        """The actor gives its orders back."""
        self.actor.hand_back([order for order, _ in self.held])
        self.held.clear()

    def step(self) -> None:
        self.feeder.step()

    def plan(self) -> None:
        if self.planned is None and self.ledger.batches < BATCHES:
            self.planned = self.feeder.next_batch(0.0)

    def train(self) -> None:
        """All of a step, publication included."""
        self.update()
        self.announce()

    def update(self) -> None:
        self.plan()
        if self.planned is not None:
            self.note(self.planned)
            self.feeder.trained()
            self.planned = None

    def announce(self) -> None:
        if self.version not in self.storage.digests:
            self.storage.digests[self.version] = self.digest
            self.feeder.announce(weights(self.number, self.ledger.batches))

    def save(self) -> None:
        if self.planned is None:
            self.storage.facts, self.storage.digest = self.feeder.commit_facts(), self.digest

    def commit(self) -> None:
        if self.planned is None:
            self.save()
            assert self.storage.facts is not None
            self.feeder.commit(self.storage.facts, "checkpoint")

    def shed(self) -> None:
        self.feeder.shed()

    def kill(self) -> None:
        self.start()

    # --- what is trained

    def generated(self, order: WorkOrder, begun: int) -> Group:
        """What the actor makes of an order that it began with one version and ends with the one that it has."""
        digest = self.storage.digests[self.served]
        rewards = (1.0, 1.0) if has_one_outcome(order.seq, digest) else (1.0, 0.0)
        tokens = np.array([drawn("token", order.seq, digest) % VOCABULARY, 1], np.int32)
        starts = np.arange(1 if begun == self.served else 2, dtype=np.int32)
        span: dict[str, Any] = {
            "span_start": starts,
            "span_version": np.array([begun, self.served][-len(starts) :], np.int64),
        }
        responses = tuple(
            replace(make_response(self.served, tokens=2, seed=seed, reward=reward, **span), tokens=tokens)
            for seed, reward in zip(seeds(order.seq, order.attempt), rewards, strict=True)
        )
        return answer(order, responses=responses)

    def note(self, batch: ReadyBatch) -> None:
        made = {
            self.storage.digests[int(version)]
            for group in batch.groups
            for response in group.responses
            for version in response.versions()
        }
        assert made == {self.digest}, "tokens of other weights than those that are trained"
        groups = tuple((g.seq, g.attempt, tuple(r.seed for r in g.responses)) for g in batch.groups)
        self.storage.trained(batch.record.batch, (self.digest, groups))
        self.digest = trained_on(self.digest, groups)

    def finish(self) -> None:
        """Without further faults, to the end of the run."""
        rounds = 0
        while self.ledger.batches < BATCHES:
            for act in (self.load, self.step, self.take, self.publish, self.publish, self.step, self.train):
                act()
            assert (rounds := rounds + 1) < 200, self.feeder.why_waiting()


ACTS = (
    "load",
    "take",
    "publish",
    "publish_last",
    "forget",
    "step",
    "plan",
    "update",
    "announce",
    "train",
    "save",
    "commit",
    "shed",
)
WORK = ("load", "step", "take", "publish", "publish", "step")
KILLS = {
    "before the plan": (*WORK, "kill"),
    "in the middle of a batch": ("load", "step", "take", "publish", "step", "kill"),
    "after the plan": (*WORK, *WORK, "plan", "kill"),
    "after the step": (*WORK, *WORK, "update", "kill"),
    "after the publication": (*WORK, *WORK, "train", "kill"),
    "after the next groups": (*WORK, *WORK, "train", *WORK, "kill"),
    "after the checkpoint": (*WORK, *WORK, "update", "save", "kill"),
    "after the commit": (*WORK, *WORK, "update", "commit", "kill"),
    "when the next batch was judged": (*WORK, *WORK, "train", *WORK, "commit", "shed", "kill"),
}


def live(url: str, acts: Iterable[str]) -> None:
    life = Life(url)
    try:
        for act in acts:
            getattr(life, act)()
        life.finish()
    finally:
        life.broker.close()
    assert [life.storage.history[batch] for batch in range(1, BATCHES + 1)] == undisturbed()


def test_the_undisturbed_run_replaces_as_many_groups_as_it_may_and_fewer() -> None:
    history = undisturbed()
    ends = [-1, *(groups[-1][0] for _, groups in history)]
    failed = [
        sum(fails(seq, digest) for seq in range(first + 1, last))
        for (first, last), (digest, _) in zip(pairwise(ends), history, strict=True)
    ]
    replaced = [last - first - P - lost for (first, last), lost in zip(pairwise(ends), failed, strict=True)]
    assert min(replaced) < REPLACED == max(replaced) and sum(failed) > 0


@pytest.mark.parametrize("moment", KILLS)
@pytest.mark.parametrize("batches", [0, 2])
def test_a_kill_at_every_moment_changes_nothing(redis_server: str, moment: str, batches: int) -> None:
    live(redis_server, [*(*WORK, *WORK, *WORK, "train") * batches, *KILLS[moment]])


def test_an_order_that_an_actor_gave_up_with_the_weights_of_an_earlier_batch_is_made_again(
    redis_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An actor holds it through the death of a learner, whose successor begins before it, and comes too late."""
    monkeypatch.setitem(globals(), "fails", lambda seq, digest: drawn("fails", 5, seq, digest) % 3 == 0)
    batch = (*WORK, *WORK, *WORK, "train")
    taken = ("load", "step", "take", "take", "take", "kill", "load", "step", "train", "step")
    live(redis_server, [*batch, "commit", *batch, *taken, *("publish",) * 4])


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from([*ACTS, "kill", "work", "work"]), max_size=80))
def test_kills_change_nothing_whatever_happens(redis_server: str, acts: list[str]) -> None:
    live(redis_server, [each for act in acts for each in (WORK if act == "work" else (act,))])
