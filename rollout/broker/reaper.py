"""Revocation of the leases of actors that are gone.

Time counts on the caller's monotonic clock, never the server's: a server's clock may jump. Between two reads at most
one interval counts, so that no actor is revoked because the caller or the broker itself was stopped. Any number of
reapers may run. One is enough, and each reads all records: it is the learner, and an actor while the learner is silent.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from isentrope.rollout.broker.connection import Broker
from isentrope.rollout.broker.keys import ACTORS
from isentrope.rollout.broker.news import wake
from isentrope.rollout.broker.run_view import GONE, actor_state
from isentrope.rollout.config import LeaseConfig
from isentrope.rollout.wire.plain_text import printable

SILENT_BEATS = 3
"""Heartbeat intervals without a change after which an actor's leases are revoked."""

FORGET_BEATS = 120
"""Intervals after which the record of an actor that is gone is deleted."""

RECORD = "record"
"""Field that says who reaps, and counts up."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Watched:
    record: str
    silent_s: float


class Stillness:
    """Time for which a value has not changed, on the reader's clock; one interval counts between two looks at most."""

    def __init__(self, interval_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._interval_s = interval_s
        self._clock = clock
        self._value: str | None = None
        self._looked_at = self._still_s = 0.0

    def look(self, value: str) -> bool:
        """Return True if `value` has stood still for three intervals."""
        now = self._clock()
        step_s = min(now - self._looked_at, self._interval_s)
        self._still_s = self._still_s + step_s if value == self._value else 0.0
        self._value, self._looked_at = value, now
        return self._still_s > SILENT_BEATS * self._interval_s


class Reaper:
    """Observer of all actors of a run."""

    def __init__(
        self,
        broker: Broker,
        leases: LeaseConfig,
        *,
        me: str = "",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start without observations.

        Args:
            broker: of the run.
            leases: the run's rules, as its `RunSpec` has them.
            me: an actor whose leases are never revoked: the caller's own.
            clock: seconds, of any origin.
        """
        self._broker = broker
        self._me = me
        self._heartbeat_s = leases.heartbeat_s
        self._max_tries = leases.max_tries
        self._clock = clock
        self._watched: dict[str, _Watched] = {}
        self._looked_at: float | None = None

    def reap(self) -> int:
        """Revoke the leases of actors whose record stood still for three intervals; return the number of leases.

        Call it once per heartbeat interval.
        """
        now = self._clock()
        step = 0.0 if self._looked_at is None else min(now - self._looked_at, self._heartbeat_s)
        records = self._records()
        holders = self._holders()
        self._looked_at = now  # only now: a read that failed does not count
        watched: dict[str, _Watched] = {}
        for name in sorted((records.keys() | holders) - {self._me}):
            record = records.get(name, "")
            before = self._watched.get(name)
            silent_s = before.silent_s + step if before is not None and before.record == record else 0.0
            watched[name] = _Watched(record, silent_s)
        self._watched = watched
        return sum(self._judge(name, seen, name in holders) for name, seen in watched.items())

    def revoke(self, name: str) -> int:
        """Revoke the leases of an actor at once, unless they are; return their number. It comes back as a new one."""
        record = self._records().get(name, "")
        if not record or record.startswith(GONE):
            return 0
        leases = int(self._broker.call("reap", _raw(name), _raw(record), self._max_tries))
        if leases > 0:
            wake(self._broker)
        return max(leases, 0)

    def revoke_process(self, boot: str) -> int:
        """Revoke the leases of a process that has ended, by the id of its own that it put into its heartbeats; return
        their number. Whoever has one of its actor ids by now keeps what it holds."""
        taken = 0
        for name, record in self._records().items():
            if record.startswith(GONE) or actor_state(name, record).boot != boot:
                continue
            leases = int(self._broker.call("reap", _raw(name), _raw(record), self._max_tries))
            if leases >= 0:
                logger.warning("%s GONE: its process has ended, %d leases re-queued", printable(name), leases)
            taken += max(leases, 0)
        if taken:
            wake(self._broker)
        return taken

    def _judge(self, name: str, seen: _Watched, holds_leases: bool) -> int:
        gone = seen.record.startswith(GONE)
        if seen.silent_s > SILENT_BEATS * self._heartbeat_s and (holds_leases or not gone):
            leases = int(self._broker.call("reap", _raw(name), _raw(seen.record), self._max_tries))
            if leases >= 0:
                text = "%s GONE: no heartbeat for %.0f s, %d leases re-queued"
                logger.warning(text, printable(name), seen.silent_s, leases)
            if leases > 0:
                wake(self._broker)
            return max(leases, 0)
        if seen.silent_s > FORGET_BEATS * self._heartbeat_s:
            self._broker.run(lambda client: client.hdel(self._broker.keys.actors, _raw(name)))
            self._broker.run(lambda client: client.hdel(self._broker.keys.leave, _raw(name)))
        return 0

    def _records(self) -> dict[str, str]:
        table = self._broker.run(lambda client: client.hgetall(self._broker.keys.actors))
        return {_text(name): _text(record) for name, record in table.items()}

    def _holders(self) -> set[str]:
        """Return the actors with at least one lease."""
        keys = self._broker.keys
        summaries = [self._pending(stream) for stream in (keys.work, keys.work_hi, keys.eval)]
        return {_text(consumer["name"]) for summary in summaries for consumer in summary["consumers"]}

    def _pending(self, stream: str) -> dict[str, Any]:
        summary = self._broker.group_read(lambda client: client.xpending(stream, ACTORS))
        return summary or {"consumers": []}


def _text(raw: bytes) -> str:
    """Return a name or a record, which may be any bytes, so that `_raw` gives them back."""
    return raw.decode(errors="surrogateescape")


def _raw(text: str) -> bytes:
    return text.encode(errors="surrogateescape")


class SpareReaper:
    """An actor's reaper, which acts only while nobody else does: the record of whoever reaps stands still then.

    The first actor that finds it so writes its own, and goes on until another replaces that, as a learner always does.
    """

    def __init__(
        self, broker: Broker, leases: LeaseConfig, me: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Start without observations; the leases of `me` are never revoked."""
        self._broker = broker
        self._me = me
        self._reaper = Reaper(broker, leases, me=me, clock=clock)
        self._others = Stillness(leases.heartbeat_s, clock)
        self._mine = ""
        self._count = 0

    def reap(self, found: str | None = None) -> int:
        """Revoke leases as `Reaper.reap`, unless another does. Call it once per heartbeat interval.

        found: record of whoever reaps, as the caller has just read it; None: read it.
        """
        record = self._read() if found is None else found
        still = self._others.look(record)
        if record != self._mine:
            self._mine = ""
        if not (still or self._mine):
            return 0
        self._count += 1
        mine = f"{self._me} {self._count}"
        if not self._broker.call("reaper", mine, record):
            return 0
        if not self._mine:
            logger.warning("nobody revokes leases of actors that are gone; %s does it now", self._me)
        self._mine = mine
        return self._reaper.reap()

    def _read(self) -> str:
        found = self._broker.run(lambda client: client.hget(self._broker.keys.reaper, RECORD))
        return found.decode(errors="replace") if found else ""
