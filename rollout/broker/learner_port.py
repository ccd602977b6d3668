"""The broker operations of the learner.

How calls behave: synchronous and thread-safe (`admit` and `pending` belong to one thread), retried as `connection.py`
describes; all may be repeated. Every change is made by a script that compares the incarnation first. `FencedError`
(exit 75) means a newer learner took over: stop, write nothing. `BrokerChangedError` means the server is another process
than at the last fence and may hold an older state; every call raises it until `refence`. After it, whatever was
buffered is invalid: empty the buffer, then `pending()`, `admit` until nothing comes, `reconcile(trained | retired | now
buffered)`. Entries that are trained or retired but not committed come again then; drop only those with another id.

At start: claim the incarnation on the checkpoint storage, `fence`, `announce` the restored weights, `pending()`,
`admit`, `plans()`, `reconcile`. While running: `pending()` every few seconds, because a lost reply moves entries to the
pending list where `admit` does not see them.
"""

import contextlib
import logging
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

from isentrope.errors import BrokerChangedError, FencedError, InternalError, RecordError, RunFolderError
from isentrope.rollout.broker.answers import BrokerFullError
from isentrope.rollout.broker.connection import BLOCK_S, Broker
from isentrope.rollout.broker.evaluations import Evaluations
from isentrope.rollout.broker.fenced import FencedBroker, RawEntries, RawFields
from isentrope.rollout.broker.intervals import MAX_SEQ, bounds
from isentrope.rollout.broker.learner_state import HEARTBEAT, LearnerState
from isentrope.rollout.broker.news import Topic, wake
from isentrope.rollout.broker.reaper import Reaper
from isentrope.rollout.broker.repeats import Repeats
from isentrope.rollout.broker.run_view import METRICS, ActorState, RunView
from isentrope.rollout.wire.codec import RawHeader, header_int, header_text, split_fields
from isentrope.rollout.wire.control import FILLED, PRESSING, Control
from isentrope.rollout.wire.spec import RunSpec
from isentrope.rollout.wire.types import EvalOrder, EvalResult
from isentrope.rollout.wire.weights import Announcement, Manifest

ISSUE_CHUNK = 256
DROP_CHUNK = 500
FETCH_CHUNK = 64
PENDING_CHUNK = 1000

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of `traj`: a published group, still encoded, or the `tombstone` of an order that failed for good.

    `reason` is empty for a group; for a `tombstone` it is one word (`too_long`, `reward`), explained by `detail`, and
    `version` is that of the weights which could not make it; 0: none could.
    """

    id: str
    seq: int
    attempt: int
    kind: Literal["group", "tombstone"]
    header: RawHeader
    payload: bytes
    reason: str = ""
    detail: str = ""
    actor: str = ""
    version: int = 0


class LearnerPort:
    """One learner's side of the protocol. Rank 0 makes it with `fence`; other ranks construct it and only `fetch`."""

    def __init__(self, broker: Broker, incarnation: int, spec: RunSpec) -> None:
        self.broker = broker
        self.incarnation = incarnation
        self.spec = spec
        self.view = RunView(broker)
        self._keys = broker.keys
        self._fenced = FencedBroker(broker, incarnation)
        self._call = self._fenced.call
        self._evaluations = Evaluations(self._fenced, spec)
        self._reaper = Reaper(broker, spec)
        self._repeats = Repeats(self._fenced, self.view)
        self._cursor = 0
        self._beat = 0
        self._handed: set[str] = set()
        self._manifest: Manifest | None = None
        self._control: Control | None = None
        self._nonce = ""

    # --- fencing

    @classmethod
    def fence(  # noqa: PLR0913  (a port, and the two positions its learner continues from)
        cls,
        broker: Broker,
        incarnation: int,
        lwm: int,
        cursor: int,
        spec: RunSpec,
        control: Control,
        *,
        nonce: str = "",
    ) -> Self:
        """Take the run over as learner `incarnation`, with low watermark and cursor of the loaded checkpoint.

        Loads the scripts, writes spec and control state, pins the server process. `nonce` is that of the claim: another
        learner with the same number, on a copy of the claims, has another one.

        Raises:
            FencedError: a newer learner holds the run, or another one of the same number.
            RunFolderError: the run's name belongs to another configuration.
        """
        port = cls(broker, incarnation, spec)
        port._control = control
        port._nonce = nonce
        port._fence(lwm, cursor)
        port._repeats.note(broker.keys.ckpt, "", port.view.checkpoint())
        return port

    def refence(self, *, newest_claim: int, lwm: int, cursor: int) -> None:
        """Fence again after `BrokerChangedError`, on a broker that came back.

        Args:
            newest_claim: the newest incarnation claimed on the checkpoint storage, read after the error: a broker that
                came back with older state cannot tell an older learner from the present one.
            lwm: the low watermark of the last durable checkpoint.
            cursor: one more than the largest seq this learner knows of.

        Repeats what the broker may have lost: spec, control state, weights, `Repeats`, open evaluation orders.

        Raises:
            FencedError: `newest_claim` or the broker shows a newer learner.
        """
        if newest_claim > self.incarnation:
            raise self._fenced.fenced_by(newest_claim)
        self._handed.clear()
        self._fence(lwm, cursor)
        if self._manifest is not None:
            self.announce(self._manifest)
        self._repeats.repeat()
        self._evaluations.repeat()

    # --- orders

    def issue(self, *, trained_batches: int, retired: int, limit: int, needed: int = 0) -> int:
        """Issue as many orders as admission, byte budget and state allow, up to seq `limit`; return the cursor.

        Args:
            trained_batches: batch of the newest announced version.
            retired: seqs retired so far, each replaced by a new one.
            limit: seqs to issue in the whole run, replacements included.
            needed: seqs without which the next batch is never complete; the byte budget does not hold them back.

        A full broker refuses without a change; the cursor then stays where it is.
        """
        version = 0 if self._manifest is None else self._manifest.version
        size, budget = self.spec.prompts_per_batch, self.spec.max_bytes
        facts = (trained_batches, retired, limit, size, budget, version, ISSUE_CHUNK, needed)
        while True:
            try:
                cursor = int(self._call("issue", *facts))
            except BrokerFullError as error:
                logger.warning("%s", error.what)
                return self._cursor
            issued, self._cursor = cursor - self._cursor, cursor
            if issued < ISSUE_CHUNK:
                return cursor

    def reconcile(self, known: Collection[int], requeued: Collection[int] = (), held_from: int | None = None) -> int:
        """Re-issue every lost seq; return the number of them.

        Args:
            known: the seqs from the low watermark on that are trained, retired, or buffered by the learner.
            requeued: those that are open although they may be below it.
            held_from: seq from which on orders are withdrawn until a later call, and nothing is taken in for them.
        """
        version = 0 if self._manifest is None else self._manifest.version
        held = MAX_SEQ if held_from is None else held_from
        return int(self._call("reconcile", version, held, len(requeued), *sorted(requeued), *bounds(known)))

    # --- groups

    def admit(self, count: int, block_s: float) -> list[Entry]:
        """Return up to `count` new entries; wait up to `block_s` seconds for the first. They stay pending until commit
        or drop."""
        deadline = time.monotonic() + block_s
        while True:
            raw = self._fenced.read(self._keys.traj, ">", count, min(block_s, BLOCK_S))
            entries = self._hand_out([entry_id for entry_id, _ in raw], _entries(raw))
            if entries or time.monotonic() >= deadline:
                return entries

    def pending(self) -> list[Entry]:
        """Return the entries read by a learner, this or an earlier one, but not yet handed out by this port: all of
        them at first, then those whose reply was lost. Cheap when there are none."""
        ids: list[str] = []
        start = "-"
        while page := self._fenced.pending(self._keys.traj, start, PENDING_CHUNK):
            ids += page
            start = f"({page[-1]}"
        new = [entry_id for entry_id in ids if entry_id not in self._handed]
        return self._hand_out(new, self.fetch(new))

    def fetch(self, entry_ids: Sequence[str]) -> list[Entry]:
        """Return the entries of these ids, in this order, without those that do not exist. Changes nothing; for any
        rank."""
        entries: list[Entry] = []
        for start in range(0, len(entry_ids), FETCH_CHUNK):
            entries += _entries(self._range(entry_ids[start : start + FETCH_CHUNK]))
        return entries

    def sized(self) -> set[str]:
        """Return the ids of all entries whose bytes are counted."""
        table: Any = self.broker.run(lambda client: client.hgetall(self._keys.sizes))
        return {entry_id.decode(errors="replace") for entry_id in table}

    def drop(self, entries: Iterable[Entry]) -> None:
        """Delete entries whose seq is already trained, retired or buffered under another id."""
        self.discard([entry.id for entry in entries])

    def discard(self, entry_ids: Sequence[str]) -> None:
        """Delete entries by id, of seqs that are done."""
        for start in range(0, len(entry_ids), DROP_CHUNK):
            self._call("drop", *entry_ids[start : start + DROP_CHUNK])
        self._handed.difference_update(entry_ids)

    # --- batches

    def plan(self, batch: int, record: bytes) -> None:
        """Store the plan of `batch` until it is committed; call it before the batch is trained."""
        self._call("set", "", str(batch), record, keys=[self._keys.plans])

    def plans(self) -> dict[int, bytes]:
        """Return all stored plans by batch, ascending."""
        table: Any = self.broker.run(lambda client: client.hgetall(self._keys.plans))
        return dict(sorted((int(batch), bytes(record)) for batch, record in table.items()))

    def commit(self, *, entries: Sequence[str], lwm: int, ckpt: str, plans: Iterable[int] = ()) -> None:
        """Record the durable checkpoint `ckpt`: delete its entries (by id) and plans, raise the low watermark.

        May be repeated, and may be interrupted anywhere: the next learner drops what is left.
        """
        self.discard(entries)
        self._call("commit", lwm, ckpt, *plans)
        self._repeats.note(self._keys.ckpt, "", ckpt)

    # --- weights and control

    def announce(self, manifest: Manifest) -> None:
        """Make `manifest` the newest weights; `refence` repeats it, so it need not be called again after an error."""
        self._manifest = manifest
        announced = Announcement(manifest=manifest, depots=self.spec.depots)
        self._call("set", Topic.WEIGHTS, "", announced.model_dump_json(), keys=[self._keys.weights])
        wake(self.broker)

    def control(self) -> Control:
        """Return the control state, with what an operator asks for in `requested_mode` or `requested_stop`."""
        control = self.view.control()
        if control is None:
            raise self._fenced.lost("has lost the run")
        return control

    def set_control(self, control: Control) -> None:
        """Write the control state. If neither `requested_mode` nor `requested_stop` is set, the request it was read
        with is closed, whether applied or not (`note` says why not)."""
        assert self._control is not None
        answered = control.request and control.requested_mode is None and not control.requested_stop
        served = control.request if answered else self._control.served
        self._control = control.model_copy(update={"served": served})
        self._call("set", Topic.CONTROL, "", self._control.model_dump_json(), keys=[self._keys.ctl])
        wake(self.broker)

    # --- evaluation

    def issue_eval(self, orders: Sequence[EvalOrder]) -> None:
        """Order evaluations; `entry_id` is ignored. What a full broker refuses goes out with a later `admit_eval`."""
        self._evaluations.issue(orders)

    def admit_eval(self, count: int, block_s: float) -> list[EvalResult]:
        """Return up to `count` results of open orders, each once; wait up to `block_s` seconds for the first.

        An order that failed for good comes as a result whose group has no responses.
        """
        return self._evaluations.admit(count, block_s)

    # --- actors

    def reap(self, quarantined: Collection[str] = ()) -> int:
        """Revoke the leases of actors that are gone, or in quarantine; return the number. Call it once per heartbeat
        interval: it is the learner's heartbeat too, without which an actor reaps. Unusable keys are deleted then."""
        self._beat += 1
        self._fenced.mend()
        self.broker.call("reaper", f"learner {self.incarnation} {self._beat}", "*")
        return self._reaper.reap() + sum(map(self._reaper.revoke, quarantined))

    def heartbeat(self, state: LearnerState) -> None:
        """Send a sign of life, for those who watch, and note what operators ask for. Call it once per interval."""
        facts = {"incarnation": self.incarnation, "beat": self._beat, "at_ms": int(self.view.server_time_s() * 1000)}
        record = state.model_copy(update=facts).model_dump_json(exclude={"silent_s"})
        self._call("set", "", HEARTBEAT, record, keys=[self._keys.metrics])
        self._repeats.note_requests()

    def actors(self) -> list[ActorState]:
        """Return all actors, with the seconds since each one's record changed."""
        return self.view.actors()

    def counters(self) -> dict[str, int]:
        """Return the counters of the run."""
        return self.view.counters()

    def is_pressed(self) -> bool:
        """Return True if a checkpoint is due for the broker's sake, which frees what it covers."""
        used_bytes, limit_bytes = self.view.memory()
        over_budget = self.counters().get("bytes", 0) > PRESSING * self.spec.max_bytes
        return over_budget or 0 < FILLED * limit_bytes < used_bytes

    def report(self, values: Mapping[str, int]) -> None:
        """Write the learner's own counters beside the protocol's: `trained` and `retired` seqs at least."""
        for name, value in values.items():
            self._call("set", "", name, value, keys=[self._keys.n])

    def show(self, metrics: str) -> None:
        """Write the learner's metrics, in place of those before, for those who watch the run."""
        self._repeats.show(self._keys.metrics, METRICS, metrics)

    def show_dead_letters(self, letters: str) -> None:
        """Write the list of dead letters, in place of the one before."""
        self._repeats.show(self._keys.dlq, "", letters)

    def requeued(self, names: Sequence[str]) -> None:
        """Delete requests that are noted."""
        if names:
            self.broker.run(lambda client: client.hdel(self._keys.requeue, *names))

    # --- private

    def _fence(self, lwm: int, cursor: int) -> None:
        assert self._control is not None
        self.broker.pin()
        self.broker.load_scripts()
        with contextlib.suppress(BrokerChangedError):  # an actor has made a key unusable: the fence deletes it
            before = self.view.control()
            if before is not None and not self._control.served:
                self._control = self._control.model_copy(update={"served": before.served})  # a stop asks only once
        digest = self.spec.config_digest
        texts = (self.spec.model_dump_json(), self._control.model_dump_json(), digest, self._nonce)
        try:
            self._cursor = int(self._call("fence", lwm, cursor, *texts, keys=self._fenced.wakes))
        except InternalError as error:
            if "CLAIMED " in error.what:
                raise FencedError(
                    f"fenced: another learner of number {self.incarnation} holds the run, with a copy of these claims",
                    where=f"run {self._keys.run}",
                    fix="end that one, then the same command takes the run over; or give this run another name",
                ) from None
            if "DIGEST " not in error.what:
                raise
            raise RunFolderError(
                f"run {self._keys.run!r} in the broker at {self.broker.place} belongs to another configuration "
                f"({error.what.rpartition('DIGEST ')[2][:12]}, this one is {digest[:12]})",
                fix="give the run another name",
            ) from None
        wake(self.broker)

    def _range(self, ids: Sequence[str]) -> RawEntries:
        def read(client: Any) -> list[Any]:
            pipeline = client.pipeline(transaction=False)
            for entry_id in ids:
                pipeline.xrange(self._keys.traj, entry_id, entry_id)
            return list(pipeline.execute())

        return [(entry_id.decode(), fields) for found in self.broker.run(read) for entry_id, fields in found]

    def _hand_out(self, ids: Sequence[str], entries: list[Entry]) -> list[Entry]:
        """Remember what was returned; delete what cannot be (deleted meanwhile, or not a record)."""
        self._handed.update(entry.id for entry in entries)
        self.discard(sorted(set(ids) - {entry.id for entry in entries}))
        return entries


def _entries(raw: RawEntries) -> list[Entry]:
    return [entry for entry_id, fields in raw if (entry := _entry(entry_id, fields)) is not None]


def _entry(entry_id: str, fields: RawFields) -> Entry | None:
    """Decode one entry; None if kind, seq and attempt cannot be read: `reconcile` then re-issues the seq."""
    header, payload = split_fields(fields)
    try:
        kind = header_text(header, "kind")
        seq, attempt = header_int(header, "seq"), header_int(header, "attempt")
        if kind == "tombstone":
            reason, detail, actor = (header_text(header, name) for name in ("reason", "detail", "actor"))
            version = header_int(header, "version") if "version" in header else 0
            return Entry(entry_id, seq, attempt, "tombstone", header, b"", reason, detail, actor, version)
        return Entry(entry_id, seq, attempt, "group", header, payload, actor=header_text(header, "actor"))
    except RecordError as error:
        logger.warning("entry %s of traj is not a record: %s (%s)", entry_id, error.what, error.where)
        return None
