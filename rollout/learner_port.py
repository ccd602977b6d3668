"""Everything the learner may do with the broker. Knows the delivery protocol, not models, batches or checkpoints.

How calls behave: synchronous and thread-safe, retried as `broker.py` describes; all may be repeated. Every change is
made by a script that compares the incarnation first. `FencedError` (exit 75) means a newer learner took over: stop,
write nothing. `BrokerChangedError` means the server is another process than at the last fence and may hold an older
state; every call raises it until `refence`. After it, whatever was buffered is void: empty the buffer, then
`pending()`, `admit` until nothing comes, `reconcile(trained | retired | now in hand)`.

At start: claim the incarnation on the checkpoint storage, `fence`, `announce` the restored weights, `pending()`,
`admit`, `plans()`, `reconcile`. While running: `pending()` every few seconds, because a lost reply moves entries to the
pending list where `admit` does not see them.
"""

import logging
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from isentrope.errors import BrokerChangedError, FencedError, InternalError, RecordError, RunFolderError
from isentrope.rollout.broker import BLOCK_S, Argument, Broker, BrokerFullError, FencedReply
from isentrope.rollout.codec import RawHeader, decode_eval, header_int, header_text
from isentrope.rollout.control import Control
from isentrope.rollout.keys import LEARNER
from isentrope.rollout.spec import RunSpec
from isentrope.rollout.types import BATCH_BITS, EvalOrder, EvalResult, Group
from isentrope.rollout.view import ActorState, RunView

ISSUE_CHUNK = 256
DROP_CHUNK = 500
FETCH_CHUNK = 64

RawFields: TypeAlias = dict[bytes, bytes]
RawEntries: TypeAlias = list[tuple[str, RawFields]]

if TYPE_CHECKING:
    from isentrope.rollout.weights import Manifest

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of `traj`: a published group, still encoded, or the tombstone of an order that was given up.

    `reason` is empty for a group; for a tombstone one word, as `too_long`, `reward` or `tries`, with `detail` beside
    it.
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


class LearnerPort:
    """One learner's side of the protocol. Rank 0 makes it with `fence`; other ranks call it directly and only
    `fetch`."""

    def __init__(self, broker: Broker, incarnation: int, spec: RunSpec) -> None:
        self.broker = broker
        self.incarnation = incarnation
        self.spec = spec
        self.view = RunView(broker)
        self._keys = broker.keys
        self._cursor = 0
        self._handed: set[str] = set()
        self._manifest: Manifest | None = None
        self._control: Control | None = None
        self._eval_open: dict[tuple[str, int, int], EvalOrder] = {}
        self._eval_unsent: list[EvalOrder] = []
        self._eval_serial = 0

    # --- taking over

    @classmethod
    def fence(
        cls, broker: Broker, incarnation: int, lwm: int, cursor: int, spec: RunSpec, control: Control
    ) -> "LearnerPort":
        """Take the run over as learner `incarnation`, with low watermark and cursor of the loaded checkpoint.

        Loads the scripts, writes spec and control state, pins the server process. FencedError if a newer learner holds
        the run; RunFolderError if the run's name belongs to another configuration.
        """
        port = cls(broker, incarnation, spec)
        port._control = control
        port._fence(lwm, cursor)
        return port

    def refence(self, *, newest_claim: int, lwm: int, cursor: int) -> None:
        """Meet a broker that came back, after `BrokerChangedError`.

        Args:
            newest_claim: the newest incarnation claimed on the checkpoint storage, read after the error: a broker that
                came back with older state cannot tell an older learner from the present one. FencedError if newer.
            lwm: the low watermark of the last durable checkpoint.
            cursor: one more than the largest seq this learner knows of.

        Repeats what the broker may have lost: spec, control state, announced weights, open evaluation orders.
        """
        if newest_claim > self.incarnation:
            raise self._fenced_by(newest_claim)
        self._handed.clear()
        self._fence(lwm, cursor)
        if self._manifest is not None:
            self.announce(self._manifest)
        self._eval_unsent = list(self._eval_open.values())

    def broker_changed(self) -> bool:
        """Is the server another process than at the last fence?"""
        try:
            self.broker.run(lambda client: client.ping())
        except BrokerChangedError:
            return True
        return False

    # --- orders

    def issue(self, *, trained_batches: int, retired: int, limit: int) -> int:
        """Issue as many orders as admission, byte budget and state allow, up to seq `limit`; returns the cursor.

        Args:
            trained_batches: batch of the newest announced version.
            retired: seqs retired so far, each replaced by a new one.
            limit: seqs to issue in the whole run, replacements included.

        A full broker refuses without a change; the cursor then stays where it is.
        """
        version = 0 if self._manifest is None else self._manifest.version
        facts = (
            trained_batches,
            retired,
            limit,
            self.spec.prompts_per_batch,
            self.spec.max_bytes,
            version,
            ISSUE_CHUNK,
        )
        while True:
            try:
                cursor = int(self._call("issue", *facts))
            except BrokerFullError as error:
                logger.warning("%s", error.what)
                return self._cursor
            issued, self._cursor = cursor - self._cursor, cursor
            if issued < ISSUE_CHUNK:
                return cursor

    def reconcile(self, known: Collection[int]) -> int:
        """Re-issue every seq that is nowhere; returns how many.

        `known` are the seqs from the low watermark on that were trained, were retired, or are in the learner's hands.
        """
        version = 0 if self._manifest is None else self._manifest.version
        again = int(self._call("reconcile", version, *sorted(known)))
        if again:
            logger.warning("broker lost state: %d groups re-issued", again)
        return again

    # --- what comes back

    def admit(self, count: int, block_s: float) -> list[Entry]:
        """Up to `count` new entries; waits up to `block_s` seconds for the first. They stay pending until commit or
        drop."""
        deadline = time.monotonic() + block_s
        while True:
            raw = self._read(self._keys.traj, ">", count, min(block_s, BLOCK_S))
            entries = self._hand_out([entry_id for entry_id, _ in raw], _entries(raw))
            if entries or time.monotonic() >= deadline:
                return entries

    def pending(self) -> list[Entry]:
        """Entries read by a learner, this or an earlier one, but not yet handed out by this port: all of them at first,
        then those whose reply was lost. Cheap when there are none."""
        ids: list[str] = []
        start = "-"
        while page := self._pending_page(start):
            ids += page
            start = f"({page[-1]}"
        new = [entry_id for entry_id in ids if entry_id not in self._handed]
        return self._hand_out(new, self.fetch(new))

    def fetch(self, entry_ids: Sequence[str]) -> list[Entry]:
        """The entries of these ids, in this order, without those that do not exist. Changes nothing; for any rank."""
        entries: list[Entry] = []
        for start in range(0, len(entry_ids), FETCH_CHUNK):
            entries += _entries(self._range(entry_ids[start : start + FETCH_CHUNK]))
        return entries

    def drop(self, entries: Iterable[Entry]) -> None:
        """Delete entries whose seq is already trained, retired or buffered under another id."""
        self._drop([entry.id for entry in entries])

    # --- batches

    def plan(self, batch: int, record: bytes) -> None:
        """Keep the plan of `batch` until it is committed; written before the batch is trained."""
        self._call("plan", str(batch), record, keys=[self._keys.plans])

    def plans(self) -> dict[int, bytes]:
        """All stored plans by batch, ascending."""
        table: Any = self.broker.run(lambda client: client.hgetall(self._keys.plans))
        return dict(sorted((int(batch), bytes(record)) for batch, record in table.items()))

    def commit(self, *, entries: Sequence[str], lwm: int, ckpt: str, plans: Iterable[int] = ()) -> None:
        """The checkpoint is durable: delete its entries (by id) and plans, raise the low watermark, record `ckpt`.

        May be repeated, and may be cut off anywhere: what is left is dropped again by the next learner.
        """
        self._drop(entries)
        self._call("commit", lwm, ckpt, *plans)

    # --- weights and control

    def announce(self, manifest: "Manifest") -> None:
        """Make `manifest` the newest weights."""
        self._call("plan", "", manifest.model_dump_json(), keys=[self._keys.weights])
        self._manifest = manifest

    def control(self) -> Control:
        """The control state, with an operator's open request in `requested_mode`."""
        control = self.view.control()
        assert control is not None, "fence writes it"
        return control

    def set_control(self, control: Control) -> None:
        """Write the control state. With `requested_mode` None the request it was read with is closed, applied or
        not."""
        if control.requested_mode is None:
            control = control.model_copy(update={"served": max(control.served, control.request)})
        self._call("plan", "", control.model_dump_json(), keys=[self._keys.ctl])
        self._control = control

    # --- evaluation

    def issue_eval(self, orders: Sequence[EvalOrder]) -> None:
        """Order evaluations; `entry_id` is ignored. What a full broker refuses goes out with a later `admit_eval`."""
        self._eval_open.update({(order.name, order.index, order.version): order for order in orders})
        self._eval_unsent += orders
        self._send_eval()

    def admit_eval(self, count: int, block_s: float) -> list[EvalResult]:
        """Up to `count` results of open orders, each once; waits up to `block_s` seconds for the first.

        An order that was given up comes as a result whose group has no responses.
        """
        deadline = time.monotonic() + block_s
        self._send_eval()
        while True:
            raw = self._read(self._keys.evald, "0", count, 0.0)  # a reply that was lost
            raw = raw or self._read(self._keys.evald, ">", count, min(block_s, BLOCK_S))
            results = [
                result for entry_id, fields in raw if (result := self._eval_result(entry_id, fields)) is not None
            ]
            if raw:
                self._call("drop", *(entry_id for entry_id, _ in raw), keys=[self._keys.evald])
            results = [r for r in results if self._eval_open.pop((r.name, r.group.seq, r.version), None) is not None]
            if results or time.monotonic() >= deadline:
                return results

    # --- what to show

    def actors(self) -> list[ActorState]:
        """All actors, with the seconds since each one's record changed."""
        return self.view.actors()

    def counters(self) -> dict[str, int]:
        """Counters of the run."""
        return self.view.counters()

    def report(self, values: Mapping[str, int]) -> None:
        """Write the learner's own counters (trained, retired, …) beside the protocol's."""
        for name, value in values.items():
            self._call("plan", name, value, keys=[self._keys.n])

    # --- inside

    def _fence(self, lwm: int, cursor: int) -> None:
        assert self._control is not None
        self.broker.pin()
        self.broker.load_scripts()
        digest = self.spec.config_digest
        texts = (self.spec.model_dump_json(), self._control.model_dump_json(), digest)
        try:
            self._cursor = int(self._call("fence", lwm, cursor, *texts))
        except InternalError as error:
            if "DIGEST " not in error.what:
                raise
            raise RunFolderError(
                f"run {self._keys.run!r} in the broker at {self.broker.place} belongs to another configuration "
                f"({error.what.rpartition('DIGEST ')[2][:12]}, this one is {digest[:12]})",
                fix="give the run another name",
            ) from None

    def _call(self, script: str, *args: Argument, keys: Sequence[str] = ()) -> Any:
        """A script that compares the incarnation first."""
        try:
            return self.broker.call(script, self.incarnation, *args, keys=keys)
        except FencedReply as reply:
            if reply.held > self.incarnation:
                raise self._fenced_by(reply.held) from None
            raise BrokerChangedError(
                f"the broker at {self.broker.place} holds incarnation {reply.held}, older than {self.incarnation}",
                where=self._keys.run,
            ) from None

    def _fenced_by(self, newer: int) -> FencedError:
        return FencedError(
            f"fenced: learner {newer} took over from {self.incarnation}",
            where=f"run {self._keys.run}",
            fix="do not restart",
        )

    def _read(self, stream: str, start: str, count: int, block_s: float) -> RawEntries:
        block = max(1, int(block_s * 1000)) if block_s > 0 else None
        reply: Any = self.broker.run(lambda client: client.xreadgroup(LEARNER, LEARNER, {stream: start}, count, block))
        return [(entry_id.decode(), fields or {}) for _, entries in reply or [] for entry_id, fields in entries]

    def _range(self, ids: Sequence[str]) -> RawEntries:
        def read(client: Any) -> list[Any]:
            pipeline = client.pipeline(transaction=False)
            for entry_id in ids:
                pipeline.xrange(self._keys.traj, entry_id, entry_id)
            return list(pipeline.execute())

        return [(entry_id.decode(), fields) for found in self.broker.run(read) for entry_id, fields in found]

    def _pending_page(self, start: str) -> list[str]:
        page: Any = self.broker.run(lambda client: client.xpending_range(self._keys.traj, LEARNER, start, "+", 1000))
        return [lease["message_id"].decode() for lease in page]

    def _hand_out(self, ids: Sequence[str], entries: list[Entry]) -> list[Entry]:
        """Remember what was handed out; delete what cannot be (deleted by someone, or no record at all)."""
        self._handed.update(entry.id for entry in entries)
        self._drop(sorted(set(ids) - {entry.id for entry in entries}))
        return entries

    def _drop(self, entry_ids: Sequence[str]) -> None:
        for start in range(0, len(entry_ids), DROP_CHUNK):
            self._call("drop", *entry_ids[start : start + DROP_CHUNK])
        self._handed.difference_update(entry_ids)

    def _send_eval(self) -> None:
        if not self._eval_unsent:
            return
        self._eval_serial += 1
        parts = [(order.name, order.index, order.version, order.samples) for order in self._eval_unsent]
        try:
            self._call(
                "issue_eval", self.incarnation << BATCH_BITS | self._eval_serial, *(x for part in parts for x in part)
            )
        except BrokerFullError as error:
            logger.warning("%s", error.what)
            return
        self._eval_unsent = []

    def _eval_result(self, entry_id: str, fields: RawFields) -> EvalResult | None:
        header, payload = _split(fields)
        try:
            if header_text(header, "kind") == "tombstone":
                logger.warning("evaluation order given up: %s", header_text(header, "reason"))
                none = np.zeros(0, np.int32)
                group = Group(header_int(header, "index"), 0, header_text(header, "actor"), none, (), 1.0)
                return EvalResult(header_text(header, "name"), header_int(header, "version"), group)
            limit, vocabulary = self.spec.max_record_bytes, self.spec.vocab_size
            return decode_eval(header, payload, max_bytes=limit, vocab_size=vocabulary)
        except RecordError as error:
            logger.warning("evaluation result %s dropped: %s (%s)", entry_id, error.what, error.where)
            return None


def _split(fields: RawFields) -> tuple[RawHeader, bytes]:
    header = {key.decode(errors="replace"): value for key, value in fields.items()}
    return header, header.pop("payload", b"")


def _entries(raw: RawEntries) -> list[Entry]:
    return [entry for entry_id, fields in raw if (entry := _entry(entry_id, fields)) is not None]


def _entry(entry_id: str, fields: RawFields) -> Entry | None:
    """None if not even kind, seq and attempt can be read: the seq is then re-issued by `reconcile`."""
    header, payload = _split(fields)
    try:
        kind = header_text(header, "kind")
        seq, attempt = header_int(header, "seq"), header_int(header, "attempt")
        if kind == "tombstone":
            reason, detail = header_text(header, "reason"), header_text(header, "detail")
            return Entry(entry_id, seq, attempt, "tombstone", header, b"", reason, detail, header_text(header, "actor"))
        return Entry(entry_id, seq, attempt, "group", header, payload, actor=header_text(header, "actor"))
    except RecordError as error:
        logger.warning("entry %s of traj is no record: %s (%s)", entry_id, error.what, error.where)
        return None
