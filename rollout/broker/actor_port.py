"""The broker operations of a rollout actor.

How calls behave: synchronous and thread-safe (an asyncio actor calls them through `asyncio.to_thread`), retried as
`connection.py` describes, then `UnreachableError` after the broker's deadline; the caller may go on trying. All of them
may be repeated. `take` and `take_eval` wait at most `block_s`; nothing else blocks on other processes.

A lease is an entry pending for the actor's id. It lives as long as the actor's heartbeat counter moves (`reaper.py`).
An actor that lost its leases learns it from `heartbeat`, which returns False, and must join again under a new id. What
it still publishes counts if no other actor was faster.
"""

import logging
import re
import threading
import time
from collections.abc import Sequence
from enum import StrEnum

from isentrope.errors import InternalError, NameTakenError, RecordError
from isentrope.rollout.broker.answers import BrokerFullError
from isentrope.rollout.broker.connection import BLOCK_S, Broker, InterruptedCallError
from isentrope.rollout.broker.keys import ACTORS
from isentrope.rollout.broker.news import News, wake
from isentrope.rollout.broker.order_entries import RawOrder, eval_order, number_of, orders_of, text_of, work_order
from isentrope.rollout.broker.reaper import SpareReaper, Stillness
from isentrope.rollout.broker.run_view import GONE, ActorState, RunView, actor_state, seconds_of
from isentrope.rollout.wire.codec import HeaderFields, encode_eval, encode_group, encode_missing
from isentrope.rollout.wire.spec import RunSpec
from isentrope.rollout.wire.types import EvalOrder, EvalResult, Group, Missing, WorkOrder

ACTOR_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
MAX_DETAIL = 2000
MAX_PENDING = 1000
LOOK_BEATS = 12
"""Heartbeat intervals after which an actor looks at everything, also without news: they cannot be lost except with a
server's last second, which is noticed, and a look by each of a thousand actors costs the broker half a second."""
EVAL_LOOK = 32
"""Waiting evaluation orders that are looked at for one of the loaded version."""

logger = logging.getLogger(__name__)


class PublishResult(StrEnum):
    """Result of publishing a group."""

    DONE = "done"
    """The broker holds the group."""
    DUPLICATE = "duplicate"
    """No longer wanted: published before (also by a call whose reply was lost), trained or retired. Drop it."""
    FULL = "full"
    """The broker is full, or has lost the run and waits for its learner. Keep the group, take no orders, try again."""


class ActorPort:
    """One actor's side of the protocol."""

    def __init__(self, broker: Broker, actor: str, spec: RunSpec) -> None:
        """Take part as `actor` in the run that `spec` describes; InternalError if no actor may be called so."""
        if not ACTOR_ID.fullmatch(actor):
            raise InternalError(f"actor id {actor!r} is not allowed", fix="1 to 64 of letters, digits, '.', '_', '-'")
        self.broker = broker
        self.actor = actor
        self.view = RunView(broker)
        self._max_record_bytes = spec.max_record_bytes
        self._keys = broker.keys
        self._lock = threading.Lock()
        self._held: dict[tuple[str, str], WorkOrder | EvalOrder] = {}
        self._strays: set[tuple[str, str]] = set()
        self._beat = 0
        self._idle = False
        self._found = ""
        self._still = Stillness(spec.heartbeat_s)
        self._blocking = broker.apart()
        self.news = News(self._blocking, actor, look_every_s=LOOK_BEATS * spec.heartbeat_s)
        self._reaper = SpareReaper(broker, spec, me=actor)
        self._reaping: str | None = None  # record of whoever reaps, as the newest heartbeat brought it

    # --- work

    def take(self, count: int, block_s: float) -> list[WorkOrder]:
        """Lease up to `count` orders, those that came back first; wait up to `block_s` seconds for the first one.

        Orders that were published meanwhile are left out. May return fewer, or none, at any time.
        """
        deadline = time.monotonic() + block_s
        while not self._blocking.is_interrupted:
            orders = [] if self._idle and block_s > 0 else self._lease_first(count)
            if not orders and (left := deadline - time.monotonic()) > 0:
                try:
                    orders = self._lease([self._keys.work_hi, self._keys.work], count, min(left, BLOCK_S))
                except InterruptedCallError:
                    return []
            self._idle = not orders  # then the next call blocks at once: one read a call is all that idle actors cost
            if orders or time.monotonic() >= deadline:
                if len(orders) > count:  # a blocked read counts per stream
                    self.hand_back(orders[count:])
                return orders[:count]
        return []

    def take_eval(self, count: int, block_s: float, version: int) -> list[EvalOrder]:
        """Lease up to `count` evaluation orders that are pinned to `version`; wait up to `block_s` seconds."""
        deadline = time.monotonic() + block_s
        while True:
            orders: list[EvalOrder] = []
            if self.eval_version(version) == version:
                entries = self._read([self._keys.eval], count, 0.0)
                orders = orders_of(self.broker, entries, eval_order)
                with self._lock:
                    self._held.update({(self._keys.eval, order.entry_id): order for order in orders})
                self.hand_back([order for order in orders if order.version != version])
                orders = [order for order in orders if order.version == version]
            left = deadline - time.monotonic()
            if orders or left <= 0:
                return orders
            time.sleep(min(left, 0.25))

    def eval_version(self, preferred: int) -> int | None:
        """Return the version that waiting evaluation orders ask for: `preferred` if any of the first `EVAL_LOOK` does,
        else the oldest order's."""
        groups = self.broker.group_read(lambda client: client.xinfo_groups(self._keys.eval))
        if not groups:
            return None
        taken = groups[0]["last-delivered-id"].decode()
        entries = self.broker.run(lambda client: client.xrange(self._keys.eval, f"({taken}", count=EVAL_LOOK))
        asked = {entry_id: number_of(text_of(fields.get(b"version", b""))) for entry_id, fields in entries}
        if unreadable := [entry_id for entry_id, version in asked.items() if version is None]:
            self.broker.run(lambda client: client.xdel(self._keys.eval, *unreadable))
        versions = [version for version in asked.values() if version is not None]
        return preferred if preferred in versions else next(iter(versions), None)

    def publish(self, group: Group, order: WorkOrder) -> PublishResult:
        """Hand a finished group to the learner, once.

        Raises:
            RecordError: the group is not a valid record, or too large; call `fail`.
        """
        if (group.seq, group.attempt) != (order.seq, order.attempt):
            raise InternalError(f"group {group.seq}/{group.attempt} is not order {order.seq}/{order.attempt}")
        header, payload = encode_group(group)
        self._check_size(payload, f"seq {order.seq}")
        return self._publish(order, "published", {**header, "payload": payload}, len(payload))

    def publish_eval(self, result: EvalResult, order: EvalOrder) -> PublishResult:
        """Hand an evaluation result to the learner; as `publish`."""
        header, payload = encode_eval(result)
        self._check_size(payload, f"evaluation {order.index}")
        return self._publish_eval(order, {**header, "payload": payload})

    def fail(
        self,
        order: WorkOrder | EvalOrder,
        reason: str,
        detail: str,
        missing: Sequence[Missing] = (),
        *,
        version: int = 0,
    ) -> PublishResult:
        """Report that an order cannot be done: the learner retires its seq with `reason` (one word) and issues another.

        missing: the responses that failed. version: the weights that could not do it; 0: none could. An evaluation
        order ends with a result without responses.
        """
        header: HeaderFields = {
            "kind": "tombstone",
            "actor": self.actor,
            "reason": reason,
            "detail": detail[:MAX_DETAIL],
        }
        if missing:
            header["missing"] = encode_missing(missing)
        if version:
            header["version"] = version
        if isinstance(order, WorkOrder):
            return self._publish(order, "tombstones", {**header, "seq": order.seq, "attempt": order.attempt}, 0)
        what: HeaderFields = {"name": order.name, "index": order.index, "version": order.version}
        return self._publish_eval(order, {**header, **what})

    def hand_back(self, orders: Sequence[WorkOrder | EvalOrder]) -> None:
        """Release leases; other actors get the orders at once, with the same attempt and tries."""
        self._return([self._place(order) for order in orders])

    def my_turn(self, version: int) -> bool:
        """Return True if this actor shall load `version` again, for an evaluation: it asked first, or whoever did is
        gone."""
        return bool(self.broker.call("turn", version, self.actor))

    # --- presence

    def interrupt(self) -> None:
        """End `take` and the wait for news, now and later; for any thread. What a `take` was given meanwhile, `leave`
        hands back."""
        self._blocking.interrupt()

    def enter(self, boot: str) -> bool:
        """Return True once the process `boot` may use this id: no other has it, or the one that had it is silent for
        three heartbeat intervals. Call it once per interval until then, and before the first heartbeat.

        Raises:
            NameTakenError: another process uses the id: its record moves.
        """
        record = self.broker.run(lambda client: client.hget(self._keys.actors, self.actor))
        found = record.decode(errors="replace") if record else ""
        if not found or found.startswith(GONE) or actor_state(self.actor, found).boot in ("", boot):
            return True
        if self._found not in ("", found):
            raise self._taken(found)
        self._found = found
        return self._still.look(found)

    def heartbeat(self, state: ActorState) -> bool:
        """Send a heartbeat with this actor's state. False: its leases were revoked; join again under a new id.

        Raises:
            NameTakenError: another process uses the id.
        """
        with self._lock:
            self._beat += 1
            record = state.model_copy(update={"id": self.actor, "beat": self._beat})
        text = record.model_dump_json(exclude={"at_ms", "silent_s"})
        reply = self.broker.call("heartbeat", self.actor, text, state.boot, self._found)
        if isinstance(reply, bytes):
            raise self._taken(reply.decode(errors="replace"))
        if reply == 0:
            return False
        self._reaping = reply[1].decode(errors="replace")
        return True

    def refresh(self, orders: Sequence[WorkOrder | EvalOrder]) -> list[WorkOrder | EvalOrder]:
        """Return the `orders` no longer leased to this actor (others do them; this one may still publish).

        Call it every few heartbeats: it also releases leases that a lost reply has left.
        """
        pending = self._pending()
        with self._lock:
            unknown = pending - self._held.keys()
            strays, self._strays = unknown & self._strays, unknown  # twice seen: not a `take` whose reply is under way
        self._return(sorted(strays))
        return [order for order in orders if self._place(order) not in pending]

    def reap(self) -> int:
        """Revoke the leases of other actors that are gone, while the learner does not; return the number.

        Call it once per heartbeat interval.
        """
        found, self._reaping = self._reaping, None
        return self._reaper.reap(found)

    def asked_to_leave(self) -> float | None:
        """Return the seconds in which this actor shall finish its orders and leave; None: nobody asks it to."""
        value = self.broker.run(lambda client: client.hget(self._keys.leave, self.actor))
        return None if value is None else seconds_of(value)

    def leave(self, *, failed: bool = False) -> None:
        """Release every lease; delete this actor's record, and the request to leave. failed: count it as a death."""
        self._return(sorted(self._pending()))
        self.broker.run(lambda client: client.hdel(self._keys.actors, self.actor))
        self.broker.run(lambda client: client.hdel(self._keys.leave, self.actor))
        if failed:
            self.broker.run(lambda client: client.hincrby(self._keys.n, "deaths", 1))

    # --- private

    def _taken(self, record: str) -> NameTakenError:
        other = actor_state(self.actor, record)
        return NameTakenError(
            f"actor id {self.actor!r} is in use: process {other.pid} on {other.host} has it in run {self._keys.run!r}",
            fix="give this actor another --name, or none: then it gets one of its own",
        )

    def _lease_first(self, count: int) -> list[WorkOrder]:
        orders = self._lease([self._keys.work_hi], count, 0.0)
        if len(orders) < count:
            orders += self._lease([self._keys.work], count - len(orders), 0.0)
        return orders

    def _lease(self, streams: list[str], count: int, block_s: float) -> list[WorkOrder]:
        entries = self._read(streams, count, block_s)
        if not entries:
            return []
        orders = orders_of(self.broker, entries, work_order)
        if not orders:
            return []
        with self._lock:
            self._held.update({(order.stream, order.entry_id): order for order in orders})
        args: list[str | int] = []
        for order in orders:
            which = 1 if order.stream == self._keys.work else 2
            args += [which, order.entry_id, order.seq, order.attempt]
        wanted = self.broker.call("check", *args)
        with self._lock:
            for order, keep in zip(orders, wanted, strict=True):
                if not keep:
                    self._held.pop((order.stream, order.entry_id), None)
        return [order for order, keep in zip(orders, wanted, strict=True) if keep]

    def _read(self, streams: list[str], count: int, block_s: float) -> list[RawOrder]:
        """Return new entries for this consumer; none if the broker has lost the group (its learner will make it
        again)."""
        block = max(1, int(block_s * 1000)) if block_s > 0 else None
        broker = self._blocking if block is not None else self.broker
        reply = broker.group_read(
            lambda client: client.xreadgroup(ACTORS, self.actor, dict.fromkeys(streams, ">"), count, block)
        )
        if reply is None:
            time.sleep(min(block_s, 0.5))
        return [
            (
                stream.decode(),
                entry_id.decode(),
                {text_of(key): text_of(value) for key, value in (fields or {}).items()},
            )
            for stream, entries in reply or []
            for entry_id, fields in entries
        ]

    def _check_size(self, payload: bytes, where: str) -> None:
        if len(payload) > self._max_record_bytes:
            raise RecordError("size", where=f"{where}: {len(payload)} bytes", fix="raise redis.max_record_bytes")

    def _publish(self, order: WorkOrder, counter: str, fields: HeaderFields, size: int) -> PublishResult:
        flat = [part for pair in fields.items() for part in pair]
        lease = (order.entry_id, order.seq, order.attempt, size, counter)
        try:
            reply = self.broker.call("publish", *lease, *flat, keys=[order.stream])
        except BrokerFullError as error:
            logger.warning("%s", error.what)
            return PublishResult.FULL
        return self._finish(order, reply)

    def _publish_eval(self, order: EvalOrder, fields: HeaderFields) -> PublishResult:
        try:
            flat = [part for pair in fields.items() for part in pair]
            reply = self.broker.call("publish_eval", order.entry_id, *flat)
        except BrokerFullError as error:
            logger.warning("%s", error.what)
            return PublishResult.FULL
        return self._finish(order, reply)

    def _finish(self, order: WorkOrder | EvalOrder, reply: bytes) -> PublishResult:
        if reply == b"later":
            return PublishResult.FULL
        with self._lock:
            self._held.pop(self._place(order), None)
        return PublishResult(reply.decode())

    def _place(self, order: WorkOrder | EvalOrder) -> tuple[str, str]:
        return (order.stream if isinstance(order, WorkOrder) else self._keys.eval, order.entry_id)

    def _return(self, places: Sequence[tuple[str, str]]) -> None:
        if not places:
            return
        which = {self._keys.work: 1, self._keys.work_hi: 2, self._keys.eval: 3}
        self.broker.call("handback", *(part for stream, entry_id in places for part in (which[stream], entry_id)))
        if any(stream == self._keys.eval for stream, _ in places):
            wake(self.broker)
        with self._lock:
            for place in places:
                self._held.pop(place, None)

    def _pending(self) -> set[tuple[str, str]]:
        """Return the places of all leases of this actor, as the broker has them."""
        return {
            (stream, lease["message_id"].decode())
            for stream in (self._keys.work, self._keys.work_hi, self._keys.eval)
            for lease in self._leases(stream)
        }

    def _leases(self, stream: str) -> list[dict[str, bytes]]:
        leases = self.broker.group_read(
            lambda client: client.xpending_range(stream, ACTORS, "-", "+", MAX_PENDING, consumername=self.actor)
        )
        return list(leases or [])
