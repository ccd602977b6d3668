"""A learner and its storage: the product's feeder, ledger and checkpoint store, whose weights alone are a model.

Weights are a hash chain over what was trained, so two learners have the same weights exactly if they trained the same
data in the same order. Storage survives everything; a learner's memory does not survive its process.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from stepped import SteppedFeeder
from wire_records import make_spec

from isentrope.learner.intake.admission import AdmissionRules
from isentrope.learner.intake.buffer import ReadyBatch
from isentrope.learner.intake.intake_facts import FeederOptions
from isentrope.learner.intake.ledger import Ledger, LedgerState
from isentrope.learner.intake.retirement import POISON
from isentrope.learner.training import checkpoint_store, checkpointer
from isentrope.learner.training.checkpoint_store import (
    CheckpointState,
    CheckpointStore,
    Claim,
    FileFacts,
    facts_of,
    verify,
)
from isentrope.learner.training.checkpointer import Checkpointer, choose_start
from isentrope.learner.training.dead_letters import DeadLetters, requeue_name
from isentrope.rollout.broker.connection import Broker
from isentrope.rollout.broker.learner_port import LearnerPort
from isentrope.rollout.wire.codec import encode_group
from isentrope.rollout.wire.control import Control, Mode
from isentrope.rollout.wire.files import UNFINISHED
from isentrope.rollout.wire.spec import RunSpec
from isentrope.rollout.wire.types import Group, version_of
from isentrope.rollout.wire.weights import Manifest, Shard

RUN = "protocol"
PROMPTS = 2
MAX_LAG = 1
MAX_TRIES = 2
KEPT = 3
"""Checkpoints that a learner keeps."""
NO_END = 1 << 19
SPEC = make_spec(RUN, prompts_per_batch=PROMPTS, max_tries=MAX_TRIES, sampling={"group_size": 1})
TIGHT = SPEC.model_copy(update={"max_bytes": 1})
"""A byte budget that one group fills."""
WEIGHTS = "weights.json"


class CrashError(Exception):
    """The learner's process ended here."""


# --- storage


@dataclass(frozen=True)
class Weights:
    """What a checkpoint holds in place of tensors: `lineage` are the seqs of every batch."""

    digest: str = "start"
    lineage: tuple[tuple[int, ...], ...] = ()

    def after(self, groups: Sequence[Group]) -> "Weights":
        content = [hashlib.sha1(encode_group(group)[1]).hexdigest() for group in groups]
        digest = hashlib.sha1(json.dumps([self.digest, content]).encode()).hexdigest()
        return Weights(digest, (*self.lineage, tuple(group.seq for group in groups)))


class Storage:
    """The folder of a run: checkpoints and dead letters."""

    def __init__(self, run: Path) -> None:
        shutil.rmtree(run, ignore_errors=True)
        run.mkdir()
        self.root = run / "checkpoints"
        self.letters = DeadLetters(run)

    @property
    def dead(self) -> dict[int, str]:
        """Seqs that are in a dead letter, and not requeued from it: the names of their requeues."""
        return {
            group.seq: requeue_name(letter.name, group.seq)
            for letter in self.letters.letters()
            for group in letter.groups
            if not group.requeued
        }

    @property
    def newest_claim(self) -> int:
        return CheckpointStore(self.root).newest_claim()

    def finished(self) -> set[str]:
        """Return the names of all finished checkpoints."""
        return {path.name for path in self.root.glob("step-*") if path.suffix != UNFINISHED}

    def readable(self) -> list[str]:
        """The checkpoints from which the next learner may start, the best first."""
        store = CheckpointStore(self.root)
        store.claimed = Claim(store.newest_claim(), "", "")
        return [name for name in store.lineage() if self.is_readable(name)]

    def is_readable(self, name: str) -> bool:
        store = CheckpointStore(self.root)
        return store.folder(name).exists() and not self.check(store.folder(name), store.files(name))

    def check(self, folder: Path, files: Mapping[str, FileFacts]) -> str:
        """As the ranks do, all files."""
        return verify(folder, files, sorted(files))

    def damage(self, name: str) -> None:
        (self.root / name / WEIGHTS).write_text("")

    def weights(self, folder: Path | None) -> Weights:
        if folder is None:
            return Weights()
        digest, lineage = json.loads((folder / WEIGHTS).read_text())
        return Weights(digest, tuple(map(tuple, lineage)))


# --- learner


class Port(LearnerPort):
    """A port whose process may end in the middle of what it does."""

    ends = ""

    def issue(self, *, trained_batches: int, retired: int, limit: int, needed: int = 0) -> int:
        cursor = super().issue(trained_batches=trained_batches, retired=retired, limit=limit, needed=needed)
        admitted = (trained_batches + 1) * PROMPTS + retired
        assert cursor >= min(needed, admitted), "I6: the byte budget holds back the next batch"
        return cursor

    def plan(self, batch: int, record: bytes) -> None:
        _crash_if(self.ends == "before plan")
        super().plan(batch, record)

    def commit(self, *, entries: Sequence[str], lwm: int, ckpt: str, plans: Iterable[int] = ()) -> None:
        if self.ends == "inside script":
            self.discard(entries)
            raise CrashError
        super().commit(entries=entries, lwm=lwm, ckpt=ckpt, plans=plans)
        left = {entry.id for entry in self.fetch(entries)}
        assert not left, f"I5: committed entries are still there: {left}"


class QuietFeeder(SteppedFeeder):
    """A feeder that does not write the counters of `status`."""

    def _report(self) -> None:
        """Write nothing."""


class Learner:
    """One learner process. `announced` is the history of all of them: version -> (batch, weights)."""

    def __init__(
        self,
        broker: Broker,
        storage: Storage,
        announced: dict[int, tuple[int, str]],
        mode: Mode,
        spec: RunSpec = SPEC,
    ) -> None:
        self.spec = spec
        self.storage = storage
        self.mode = mode
        self.reached: dict[int, str] = {}
        self.port: Port
        self.feeder: QuietFeeder
        self._broker = broker
        self._announced = announced
        self._store = CheckpointStore(storage.root)
        self._claim = self._store.claim()
        self._new = CheckpointState(config_digest="", data_digest="", mode=mode, ledger=LedgerState())
        start = choose_start(self._store, storage, self._new, "")
        self.ledger = Ledger(start.state.ledger)
        storage.letters.restore(self.ledger)
        self.weights = storage.weights(start.folder)
        self._checkpointer = Checkpointer(self._store, self, KEPT)

    @property
    def incarnation(self) -> int:
        return self._claim.incarnation

    @property
    def batch(self) -> int:
        return self.ledger.batches

    @property
    def uncommitted(self) -> set[bytes]:
        """Entries that are trained or retired, but not in a checkpoint the broker knows of."""
        return {entry_id.encode() for entry_id in self.feeder._buffer.uncommitted()[0]}

    def version(self) -> int:
        return version_of(self.incarnation, self.batch)

    def start(self) -> None:
        """Take the run over, and train the stored plans again."""
        control = Control(mode=self.mode, max_lag=MAX_LAG)
        self.port = Port.fence(
            self._broker,
            self.incarnation,
            self.ledger.lwm,
            self.ledger.cursor,
            self.spec,
            control,
            nonce=self._claim.nonce,
        )
        rules = AdmissionRules(token_max_lag=MAX_LAG, min_kept=0.5)
        options = FeederOptions(NO_END, rules, self.mode, self._store.newest_claim, admit_s=0.0)
        self.feeder = QuietFeeder(self.port, self.ledger, options)
        self.feeder.start(self._manifest())
        while self.feeder._buffer._replays:
            self.train()

    def _manifest(self) -> Manifest:
        bound = self._announced.setdefault(self.version(), (self.batch, self.weights.digest))
        assert bound == (self.batch, self.weights.digest), f"I3: version {self.version()} has two weights"
        return make_manifest(self.version(), self.weights.digest)

    def set_mode(self, mode: Mode) -> None:
        self.mode = mode
        control = self.feeder.control()
        self.feeder.set_control(control.model_copy(update={"mode": mode}))

    # --- steps of the feeder

    def issue(self) -> None:
        self.feeder.call(lambda _: self.feeder._issue())

    def read(self) -> None:
        self.feeder.step()

    def sweep(self) -> None:
        """Search for entries whose reply was lost, and for lost groups."""
        self.feeder.asked.wanted |= {"pending", "reconcile"}
        self.feeder.step()

    def reconcile(self) -> None:
        self.feeder.call(lambda _: self.feeder._reconcile())

    def retire_all(self) -> None:
        """Whatever came is of no use."""
        buffer = self.feeder._buffer
        buffer.retire(sorted(buffer._groups), "outcome")
        buffer.retirements.restart()

    def shed(self) -> None:
        """Delete what was retired and is in no checkpoint."""
        retired = sorted(self.feeder._buffer._retired)
        self.feeder.shed()
        assert not self.port.fetch(retired), "I6: retired groups keep their bytes"

    # --- batches

    def train(self, crash: str = "") -> bool:
        """One batch, if there are enough groups; `crash` names the point where the process ends."""
        self.port.ends = crash
        batch = self.feeder.next_batch(0.0)
        if batch is None:
            return False
        there = self.port.fetch([planned.entry for planned in batch.record.groups])
        assert len(there) == PROMPTS, "I7: about to train what a successor could not repeat"
        _crash_if(crash == "after plan")
        self._apply(batch)
        _crash_if(crash == "after update")
        self.feeder.announce(self._manifest())
        return True

    def _apply(self, batch: ReadyBatch) -> None:
        for group in batch.groups:
            for version in _versions(group):
                assert version in self._announced, f"I2: seq {group.seq} has tokens of version {version}"
        self.weights = self.weights.after(batch.groups)
        self.feeder.trained()
        self.reached[self.batch] = self.weights.digest

    # --- dead letters

    def poison(self) -> None:
        """The next batch has killed the ranks too often."""
        batch = self.feeder.next_batch(0.0)
        if batch is not None:
            self.storage.letters.write(batch, self.incarnation, 2)
            self.feeder.give_up([group.seq for group in batch.groups], POISON)
            self.feeder.discard([planned.entry for planned in batch.record.groups])

    def requeue(self) -> None:
        """Carry out what an operator has marked."""
        self.feeder.requeue(self.storage.letters.requeues())

    # --- checkpoints

    def checkpoint(self, crash: str = "") -> None:
        """Save a checkpoint, and tell the broker. `crash` names the point where the process ends."""

        def strike(place: str, batch: int) -> None:
            _crash_if(place == f"commit.{crash.replace(' ', '_')}")

        self.port.ends = crash
        _crash_if(crash == "before write")
        facts = self.feeder.commit_facts()
        state = self._new.model_copy(update={"ledger": facts.ledger})
        with (
            mock.patch.object(checkpoint_store, "crash_point", strike),
            mock.patch.object(checkpointer, "crash_point", strike),
        ):
            self._checkpointer.save(state, facts, self.feeder)
        self.reached.clear()

    def commit_again(self) -> None:
        """Tell the broker of a checkpoint of the present state, whose entries are deleted."""
        self.feeder.call(lambda port: port.commit(entries=(), lwm=self.ledger.lwm, ckpt="again"))

    def save(self, folder: Path, batch: int) -> dict[str, FileFacts]:
        """Write what stands for the tensors, as the ranks do."""
        (folder / WEIGHTS).write_text(json.dumps([self.weights.digest, self.weights.lineage]))
        return {WEIGHTS: facts_of(folder / WEIGHTS)}


def act_as_zombie(zombie: Learner, action: str) -> None:
    """What a learner that was replaced unawares may try; raises what the protocol answers.

    Reading is possible and does no harm. Everything else must fail: FencedError, or BrokerChangedError first.
    """
    fenced: dict[str, Callable[[], object]] = {
        "issue": zombie.issue,
        "plan": lambda: zombie.port.plan(zombie.batch + 1, b"{}"),
        "announce": lambda: zombie.feeder.announce(make_manifest(zombie.version(), "zombie")),
        "commit": zombie.commit_again,
        "discard": lambda: zombie.feeder.discard(["0-1"]),
        "reconcile": zombie.reconcile,
        "step": zombie.read,
    }
    if action == "read":
        zombie.port.admit(2, 0.0)
    else:
        fenced[action]()
        if action == "step":  # the first one may only notice that the broker changed
            zombie.read()
        raise AssertionError(f"I8: zombie {zombie.incarnation} completed {action!r}")


def check_learner(learner: Learner) -> None:
    """I1: every seq occurs once in the lineage, and the ledger says the same."""
    seqs = [seq for batch in learner.weights.lineage for seq in batch]
    assert len(seqs) == len(set(seqs)), f"I1: a seq was trained twice: {learner.weights.lineage}"
    assert len(seqs) == learner.ledger.trained, "I1: ledger and lineage differ"
    assert all(map(learner.ledger.known, seqs)), "I1: what was trained is not done"
    assert not set(seqs) & learner.storage.dead.keys(), "I10: a dead letter was trained"


def make_manifest(version: int, weights: str) -> Manifest:
    return Manifest(
        version=version,
        folder="w",
        shards=(),
        dtype="float32",
        tensors=Shard(file="tensors.json", size_bytes=0, digest=""),
        canary=None,
        digest=weights,
        created=0.0,
    )


def _versions(group: Group) -> list[int]:
    return [int(version) for response in group.responses for version in response.span_version]


def _crash_if(now: bool) -> None:
    if now:
        raise CrashError
