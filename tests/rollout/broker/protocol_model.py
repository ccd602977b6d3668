"""A learner and its checkpoint storage, as far as the delivery protocol sees them, on the real ports.

Weights are a hash chain over what was trained, so two learners have the same weights exactly if they trained the same
data in the same order. Storage survives everything; a learner's memory does not survive its process.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from wire_records import VOCABULARY, make_spec

from isentrope.errors import RecordError
from isentrope.rollout.broker.connection import Broker
from isentrope.rollout.broker.learner_port import Entry, LearnerPort
from isentrope.rollout.wire.codec import decode_group
from isentrope.rollout.wire.control import Control, Mode
from isentrope.rollout.wire.spec import RunSpec
from isentrope.rollout.wire.types import Group, version_of
from isentrope.rollout.wire.validation import Limits
from isentrope.rollout.wire.weights import Manifest, Shard

RUN = "protocol"
PROMPTS = 2
MAX_LAG = 1
MAX_TRIES = 2
NO_LIMIT = 1 << 40
SPEC = make_spec(RUN, prompts_per_batch=PROMPTS, max_tries=MAX_TRIES)
TIGHT = SPEC.model_copy(update={"max_bytes": 1})
"""A byte budget that one group fills."""


class CrashError(Exception):
    """The learner's process ended here."""


# --- storage


@dataclass(frozen=True)
class Checkpoint:
    """What a restart begins with: `lineage` holds the seqs of every batch, `retired` the reasons of the others, and
    `requeued` what was retired and is open again, by the requeues `carried_out`."""

    number: int
    previous: int
    lineage: tuple[tuple[int, ...], ...]
    retired: Mapping[int, str]
    weights: str
    cursor: int
    requeued: frozenset[int] = frozenset()
    carried_out: frozenset[str] = frozenset()

    @property
    def lwm(self) -> int:
        """Smallest seq that is neither trained nor retired, and never was."""
        done = {seq for batch in self.lineage for seq in batch} | self.retired.keys() | self.requeued
        return next(seq for seq in range(len(done) + 1) if seq not in done)


class Storage:
    """Claims, one pointer per claim, checkpoints, dead letters (by seq the name of its requeue) and marks; all of it
    durable."""

    def __init__(self) -> None:
        self.checkpoints = {0: Checkpoint(0, 0, (), {}, "start", 0)}
        self.unreadable: set[int] = set()
        self.parents: dict[int, int] = {}
        self.pointers: dict[int, int] = {}
        self.letters: list[dict[int, str]] = []
        self.marks: set[str] = set()

    @property
    def dead(self) -> set[int]:
        """Seqs that are in a dead letter, and not requeued from it."""
        newest = {seq: name for letter in self.letters for seq, name in letter.items()}
        return {seq for seq, name in newest.items() if name not in self.marks}

    @property
    def newest_claim(self) -> int:
        return max(self.parents, default=0)

    def load(self) -> Checkpoint:
        """The newest claim's own checkpoint, else the one it began with; if unreadable, the one before."""
        number = self.pointers.get(self.newest_claim, self.parents.get(self.newest_claim, 0))
        while number in self.unreadable:
            number = self.checkpoints[number].previous
        return self.checkpoints[number]

    def claim(self, parent: Checkpoint) -> int:
        number = self.newest_claim + 1
        self.parents[number] = parent.number
        return number

    def write(self, checkpoint: Checkpoint) -> None:
        self.checkpoints[checkpoint.number] = checkpoint

    def point(self, claim: int, checkpoint: Checkpoint) -> None:
        self.pointers[claim] = checkpoint.number


# --- learner


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
        self.durable = storage.load()
        self.incarnation = storage.claim(self.durable)
        self.lineage = list(self.durable.lineage)
        self.trained = {seq for batch in self.lineage for seq in batch}
        self.retired = dict(self.durable.retired)
        self.weights = self.durable.weights
        self.reached: dict[int, str] = {}
        self.mode = mode
        self.cursor = self.durable.cursor
        self.port: LearnerPort
        self._broker = broker
        self._announced = announced
        self._buffer: dict[int, tuple[Entry, Group]] = {}
        self._uncommitted: dict[str, Entry] = {}
        self._commit_due = False
        self.requeued = set(self.durable.requeued)
        self.carried_out = set(self.durable.carried_out)
        self.restore()

    @property
    def batch(self) -> int:
        return len(self.lineage)

    @property
    def uncommitted(self) -> set[bytes]:
        """Entries that are trained or retired, but not in a checkpoint the broker knows of."""
        return {entry_id.encode() for entry_id in self._uncommitted}

    def version(self) -> int:
        return version_of(self.incarnation, self.batch)

    def start(self) -> None:
        """Take the run over: FENCE, announce, read everything, replay stored plans, RECONCILE."""
        control = Control(mode=self.mode, max_lag=MAX_LAG)
        self.port = LearnerPort.fence(
            self._broker, self.incarnation, self.durable.lwm, self.durable.cursor, self.spec, control
        )
        self.announce()
        self.gather()
        self.replay()
        self.announce()
        self.reconcile()

    def meet(self) -> None:
        """Meet a broker that came back: what was only buffered is void, the ledger stays."""
        self.forget_buffer()
        largest = max([*self.trained, *self.retired, self.cursor - 1, self.durable.cursor - 1])
        self.port.refence(newest_claim=self.storage.newest_claim, lwm=self.durable.lwm, cursor=largest + 1)
        self._note_announcement()
        self.gather()
        self.reconcile()
        if self._commit_due:
            self._commit()

    def forget_buffer(self) -> None:
        self._buffer.clear()

    def announce(self) -> None:
        self.port.announce(make_manifest(self.version(), self.weights))
        self._note_announcement()

    def _note_announcement(self) -> None:
        bound = self._announced.setdefault(self.version(), (self.batch, self.weights))
        assert bound == (self.batch, self.weights), f"I3: version {self.version()} has two weights"

    def set_mode(self, mode: Mode) -> None:
        self.mode = mode
        self.port.set_control(self.port.control().model_copy(update={"mode": mode}))

    def issue(self) -> None:
        retired = len(self.retired)
        needed = (self.batch + 1) * PROMPTS + retired
        self.cursor = self.port.issue(trained_batches=self.batch, retired=retired, limit=NO_LIMIT, needed=needed)
        assert self.cursor >= needed, "I6: the byte budget holds back the next batch"

    def reconcile(self) -> None:
        known = {*self.trained, *self.retired, *self._buffer} - self.requeued | self._buffer.keys()
        lost = self.requeued - self._buffer.keys()
        self.port.reconcile({seq for seq in known if seq >= self.durable.lwm}, lost)

    # --- reading

    def gather(self) -> None:
        """The pending list, then everything new."""
        self.take_in(self.port.pending())
        while self.read(10):
            pass

    def sweep(self) -> None:
        self.take_in(self.port.pending())

    def read(self, count: int) -> int:
        entries = self.port.admit(count, 0.0)
        self.take_in(entries)
        return len(entries)

    def take_in(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            if self.needs(entry):
                continue
            if self.knows(entry.seq):
                self.port.drop([entry])
            elif entry.kind == "tombstone":
                self._retire(entry, entry.reason)
            else:
                self._buffer_group(entry)

    def needs(self, entry: Entry) -> bool:
        """Trained or retired, and to be replayed if this process dies before the next checkpoint."""
        return entry.id in self._uncommitted

    def knows(self, seq: int) -> bool:
        done = seq in self.trained or seq in self.retired
        return (done and seq not in self.requeued) or seq in self._buffer

    def _buffer_group(self, entry: Entry) -> None:
        try:
            group = decode_group(
                entry.header,
                entry.payload,
                max_bytes=1 << 20,
                limits=Limits(VOCABULARY, group_size=1, newest_version=self.version()),
            )
        except RecordError as error:
            replaced = self.storage.newest_claim > self.incarnation  # then versions it does not know are no lie
            assert error.what == "crc" or replaced, f"an honest record was refused: {error}"
            self._retire(entry, "invalid")
            return
        self._buffer[entry.seq] = (entry, group)

    def _retire(self, entry: Entry, reason: str) -> None:
        self.retired[entry.seq] = reason
        self.requeued.discard(entry.seq)
        self._uncommitted[entry.id] = entry

    # --- batches

    def train(self, crash: str = "") -> bool:
        """One batch of the oldest groups, if there are enough; `crash` names the point where the process ends."""
        if self.mode is Mode.ON_POLICY:
            self._retire_stale()
        chosen = [self._buffer[seq] for seq in sorted(self._buffer)[:PROMPTS]]
        if len(chosen) < PROMPTS:
            return False
        _crash_if(crash == "before plan")
        rows = [(entry.seq, entry.attempt, entry.id) for entry, _ in chosen]
        plan = {"batch": self.batch + 1, "weights": self.weights, "groups": rows}
        self.port.plan(self.batch + 1, json.dumps(plan).encode())
        there = self.port.fetch([entry.id for entry, _ in chosen])
        assert there == [entry for entry, _ in chosen], "I7: about to train what a successor could not repeat"
        _crash_if(crash == "after plan")
        self._apply(chosen)
        _crash_if(crash == "after update")
        self.announce()
        return True

    def _retire_stale(self) -> None:
        for seq, (entry, group) in list(self._buffer.items()):
            if any(version != self.version() for version in _versions(group)):
                del self._buffer[seq]
                self._retire(entry, "stale")

    def _apply(self, chosen: Sequence[tuple[Entry, Group]]) -> None:
        for entry, group in chosen:
            for version in _versions(group):
                assert version in self._announced, f"I2: seq {entry.seq} has tokens of version {version}"
            self._buffer.pop(entry.seq, None)
            self._uncommitted[entry.id] = entry
        content = [(entry.seq, entry.attempt, hashlib.sha1(entry.payload).hexdigest()) for entry, _ in chosen]
        self.weights = hashlib.sha1(json.dumps([self.weights, content]).encode()).hexdigest()
        seqs = tuple(entry.seq for entry, _ in chosen)
        self.lineage.append(seqs)
        self.trained |= set(seqs)
        self.requeued -= set(seqs)
        self.reached[self.batch] = self.weights

    def replay(self) -> None:
        for plan in map(json.loads, self.port.plans().values()):
            if plan["batch"] <= self.batch:
                continue
            if not self.fits(plan):
                return
            self._apply([self._buffer[seq] for seq, _, _ in plan["groups"]])

    def fits(self, plan: Mapping[str, object]) -> bool:
        rows = plan["groups"]
        assert isinstance(rows, list)
        there = [[entry.seq, entry.attempt, entry.id] for entry, _ in self._buffer.values()]
        return (plan["batch"], plan["weights"]) == (self.batch + 1, self.weights) and all(row in there for row in rows)

    def retire_all(self) -> None:
        """Whatever came is of no use."""
        for entry, _ in list(self._buffer.values()):
            del self._buffer[entry.seq]
            self._retire(entry, "outcome")

    # --- dead letters

    def restore(self) -> None:
        """Retire what letters hold and the checkpoint does not know of, and open again what is marked."""
        for letter in self.storage.letters:
            for seq, name in letter.items():
                if not self.knows(seq) and name not in self.carried_out:
                    self.retired[seq] = "poison"
                    self.requeued.discard(seq)
                self._open_again(seq, name)

    def poison(self) -> None:
        """The oldest groups have killed the ranks too often."""
        chosen = [self._buffer.pop(seq)[0] for seq in sorted(self._buffer)[:PROMPTS]]
        number = len(self.storage.letters)
        self.storage.letters.append({entry.seq: f"{number}.{entry.seq}" for entry in chosen})
        for entry in chosen:
            self._retire(entry, "poison")
            del self._uncommitted[entry.id]
        self.port.discard([entry.id for entry in chosen])

    def requeue(self) -> None:
        """Carry out what an operator has marked."""
        for letter in self.storage.letters:
            for seq, name in letter.items():
                self._open_again(seq, name)
        self.reconcile()

    def _open_again(self, seq: int, name: str) -> None:
        if name in self.storage.marks and self.may_open(seq, name):
            self.carried_out.add(name)
            self.retired.pop(seq, None)
            self.requeued.add(seq)

    def may_open(self, seq: int, name: str) -> bool:
        """Each requeue counts once, and only for what is retired."""
        return name not in self.carried_out and self.retired.get(seq) == "poison"

    # --- checkpoints

    def shed(self) -> None:
        """Delete what was retired and is in no checkpoint."""
        ids = [entry.id for entry in self._uncommitted.values() if entry.seq in self.retired]
        for entry_id in ids:
            del self._uncommitted[entry_id]
        self.port.discard(ids)
        assert not self.port.fetch(ids), "I6: retired groups keep their bytes"

    def checkpoint(self, crash: str = "") -> bool:
        """COMMIT; True once the broker has it too. `crash` names the point where the process ends."""
        if not self._commit_due:
            _crash_if(crash == "before write")
            checkpoint = Checkpoint(
                number=len(self.storage.checkpoints),
                previous=self.durable.number,
                lineage=tuple(self.lineage),
                retired=dict(self.retired),
                weights=self.weights,
                cursor=max([self.cursor, *(seq + 1 for seq in self.trained | self.retired.keys())]),
                requeued=frozenset(self.requeued),
                carried_out=frozenset(self.carried_out),
            )
            self.storage.write(checkpoint)
            _crash_if(crash == "before pointer")
            self.storage.point(self.incarnation, checkpoint)
            self.durable, self._commit_due = checkpoint, True
        _crash_if(crash == "before script")
        if crash == "inside script":
            self.port.drop(self._uncommitted.values())
            raise CrashError
        self._commit()
        _crash_if(crash == "after script")
        return True

    def _commit(self) -> None:
        """Entries that were trained after the checkpoint was written are kept: it does not cover them."""
        covered = {seq for batch in self.durable.lineage for seq in batch} | self.durable.retired.keys()
        ids = [entry.id for entry in self._uncommitted.values() if entry.seq in covered]
        plans = range(1, len(self.durable.lineage) + 1)
        self.port.commit(entries=ids, lwm=self.durable.lwm, ckpt=str(self.durable.number), plans=plans)
        self._commit_due = False
        for entry_id in ids:
            del self._uncommitted[entry_id]
        self.reached.clear()
        left = {entry.id for entry in self.port.fetch(ids)}
        assert not left, f"I5: committed entries are still there: {left}"


def act_as_zombie(zombie: Learner, action: str) -> None:
    """What a learner that was replaced unawares may try; raises what the protocol answers.

    Reading is possible and does no harm. Everything else must fail: FencedError, or BrokerChangedError first.
    """
    fenced: dict[str, Callable[[], object]] = {
        "issue": zombie.issue,
        "plan": lambda: zombie.port.plan(zombie.batch + 1, b"{}"),
        "announce": lambda: zombie.port.announce(make_manifest(zombie.version(), "zombie")),
        "commit": zombie.checkpoint,
        "reconcile": lambda: zombie.port.reconcile([]),
        "meet": zombie.meet,
    }
    if action == "read":
        zombie.read(2)
    else:
        fenced[action]()
        raise AssertionError(f"I8: zombie {zombie.incarnation} completed {action!r}")


def check_learner(learner: Learner) -> None:
    """I1: every seq occurs once in the lineage, the ledger says the same, and nothing trained is retired."""
    seqs = [seq for batch in learner.lineage for seq in batch]
    assert len(seqs) == len(set(seqs)), f"I1: a seq was trained twice: {learner.lineage}"
    assert set(seqs) == learner.trained, "I1: ledger and lineage differ"
    assert not learner.trained & learner.retired.keys(), "I1: a seq was trained and retired"
    assert not learner.trained & learner.storage.dead, "I10: a dead letter was trained"


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
