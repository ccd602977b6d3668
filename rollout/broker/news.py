"""News of a run: how a reader learns that something was written, without asking for it again and again.

Every script that writes control state, weights, evaluation orders, requests, or the wanted actors adds an entry with
its topic to `news`, in the same step. A reader remembers the last entry it has read, and reads those after it.

Invariant: **when `News.wait` returns a topic, all writes of that topic whose entries it has read are visible to reads
that begin then; and each write's topic is returned by a call that begins after the write, at the latest by the first
one that does so `look_every_s` after the last look at everything.** It holds for any interleaving of writes and reads:

- An entry is never there without its write, nor the write without its entry: one script makes both.
- A reader never starts at "now" (`$`): what is added between two of its reads has a higher id than the last it read.
- Trimming is noticed: fewer than `KEPT` new entries mean that none of them was trimmed; otherwise all topics return.
- Another server process may have older entries, or none: all topics return, and reading starts from the beginning.

What is left is to be woken at once. A thousand readers blocked on one key would be served in one step of Redis's
thread, which answers nobody meanwhile. So readers wait on one of `PARTS` keys, by their names, and whoever wrote wakes
one part after another. A wake is a hint and may be lost, with the writer or on a full broker: the entries of `news` are
read after every wait all the same, also after one that has timed out.
"""

import logging
import time
import zlib
from collections.abc import Callable, Mapping
from enum import StrEnum
from functools import partial
from typing import Any

from isentrope.rollout.broker.answers import BrokerFullError
from isentrope.rollout.broker.connection import BLOCK_S, Broker, Client, InterruptedCallError

KEPT = 64
"""Entries that `news` keeps; the scripts that add one name this number."""

PARTS = 16
"""Parts in which readers are woken."""

FIRST = "0-0"

logger = logging.getLogger(__name__)


class Topic(StrEnum):
    """Subject of an entry."""

    CONTROL = "control"
    WEIGHTS = "weights"
    EVAL = "eval"
    LEAVE = "leave"
    DESIRED = "desired"
    REQUEST = "request"


EVERYTHING = frozenset(Topic)


class News:
    """One reader of a run's news. For one thread."""

    def __init__(
        self, broker: Broker, name: str, *, look_every_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Start before the first entry.

        Args:
            broker: of the run.
            name: of the reader; decides with which others it is woken.
            look_every_s: longest time between two returns of all topics.
            clock: seconds, of any origin.
        """
        self._broker = broker
        self._part = broker.keys.wake(zlib.crc32(name.encode()) % PARTS)
        self._look_every_s = look_every_s
        self._clock = clock
        self._looked_at = -look_every_s
        self._server = ""
        self._read = self._woken = FIRST

    def wait(self, block_s: float) -> frozenset[Topic]:
        """Return the topics of what was written since the last call; wait up to `block_s` seconds to be woken, and not
        longer than until everything is due again; an interrupted reader learns nothing."""
        try:
            return self._wait(block_s)
        except InterruptedCallError:
            return frozenset()

    def _wait(self, block_s: float) -> frozenset[Topic]:
        wait_s = min(block_s, BLOCK_S, self._looked_at + self._look_every_s - self._clock())
        if wait_s > 0 and self._server:
            self._woken = self._last(self._part, self._woken, max(1, int(wait_s * 1000)))[0]
        last, entries = self._last(self._broker.keys.news, self._read, None)
        now = self._clock()
        if self._broker.run_id != self._server:
            self._server, self._read, self._woken, self._looked_at = self._broker.run_id, FIRST, FIRST, now
            return EVERYTHING
        self._read = last
        if len(entries) >= KEPT or now - self._looked_at >= self._look_every_s:
            self._looked_at = now
            if not entries:  # none since, or the stream is another: a learner deletes one whose ids are used up
                self._read = self._last(self._broker.keys.news, FIRST, None)[0]
                self._woken = FIRST
            return EVERYTHING
        return frozenset[Topic]().union(*map(_topics, entries))

    def _last(self, stream: str, after: str, block: int | None) -> tuple[str, list[dict[bytes, bytes]]]:
        """Return the id of the newest entry, `after` if none is newer, and all entries after that."""
        reply: Any = self._broker.run(lambda client: client.xread({stream: after}, block=block))
        entries = reply[0][1] if reply else []
        return (entries[-1][0].decode() if entries else after), [fields for _, fields in entries]


def _topics(fields: Mapping[bytes, bytes]) -> frozenset[Topic]:
    """Return the topic of an entry; all of them if it has none: an actor may add anything."""
    told = fields.get(b"topic", b"").decode(errors="replace")
    return frozenset({Topic(told)}) if told in list(Topic) else EVERYTHING


def wake(broker: Broker) -> None:
    """Wake all readers, one part after another; call it after a script that has added to `news`."""

    def add(client: Client, key: str) -> None:
        client.xadd(key, {"": ""}, maxlen=1, approximate=False)

    try:
        for part in range(PARTS):
            broker.run(partial(add, key=broker.keys.wake(part)))
    except BrokerFullError:
        logger.warning("the broker is full: readers learn of news when they look again by themselves")
