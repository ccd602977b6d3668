"""The broker of one learner incarnation: every change names it and fails once a newer one holds the run."""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from isentrope.errors import BrokerChangedError, FencedError
from isentrope.rollout.broker.answers import FencedReply
from isentrope.rollout.broker.connection import Argument, Broker, Client
from isentrope.rollout.broker.keys import LEARNER
from isentrope.rollout.broker.news import PARTS

RawFields: TypeAlias = dict[bytes, bytes]
RawEntries: TypeAlias = list[tuple[str, RawFields]]


class FencedBroker:
    """Scripts and reads of the learner `incarnation`.

    Raises:
        FencedError: a newer learner holds the run.
        BrokerChangedError: the broker has lost the run, or shows an older learner as its holder.
    """

    def __init__(self, broker: Broker, incarnation: int) -> None:
        self.broker = broker
        self.incarnation = incarnation
        self.wakes = [broker.keys.wake(part) for part in range(PARTS)]

    def call(self, script: str, *args: Argument, keys: Sequence[str] = ()) -> Any:
        """Return the reply of a script that compares the incarnation first."""
        try:
            return self.broker.call(script, self.incarnation, *args, keys=keys)
        except FencedReply as reply:
            if reply.held > self.incarnation:
                raise self.fenced_by(reply.held) from None
            raise self.lost(f"holds incarnation {reply.held}, older than {self.incarnation}") from None

    def mend(self) -> None:
        """Delete keys that an actor has made unusable; BrokerChangedError if there were any: the fence makes them."""
        if mended := self.call("mend", keys=self.wakes):
            names = ", ".join(name.decode() for name in mended)
            raise self.lost(f"had keys that an actor made unusable, and they are deleted: {names}")

    def read(self, stream: str, start: str, count: int, block_s: float) -> RawEntries:
        """Return the entries of a stream for the learner: new ones (`start` is `>`), or pending ones after an id."""
        block = max(1, int(block_s * 1000)) if block_s > 0 else None
        reply = self._group(lambda client: client.xreadgroup(LEARNER, LEARNER, {stream: start}, count, block))
        return [(entry_id.decode(), fields or {}) for _, entries in reply for entry_id, fields in entries]

    def pending(self, stream: str, start: str, count: int) -> list[str]:
        """Return the ids of entries that were read and not yet deleted, from `start` on."""
        page = self._group(lambda client: client.xpending_range(stream, LEARNER, start, "+", count))
        return [lease["message_id"].decode() for lease in page]

    def _group(self, read: Callable[[Client], Any]) -> Any:
        reply = self.broker.group_read(read)
        if reply is None:
            raise self.lost("has lost the run")
        return reply

    def fenced_by(self, newer: int) -> FencedError:
        """Return the error that ends this learner."""
        return FencedError(
            f"fenced: learner {newer} took over from {self.incarnation}",
            where=f"run {self.broker.keys.run}",
            fix="do not restart",
        )

    def lost(self, how: str) -> BrokerChangedError:
        """Return the error that sends this learner back to its fence."""
        return BrokerChangedError(f"the broker at {self.broker.place} {how}", where=f"run {self.broker.keys.run}")
