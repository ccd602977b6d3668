"""Every key of a run in the broker, in one place. Names only: does not import redis.

All keys of a run share the hash tag `{run}`, so that scripts over several of them stay legal on a cluster, and an
access rule can name them by one pattern. `README.md` beside this file has the table of who writes what.
"""

import re
from dataclasses import dataclass

from isentrope.errors import ConfigError

RUN_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
"""Allowed run names. The name becomes part of an access rule's glob, so it must not hold `*`, `?`, `[` or `\\`."""

ACTORS = "actors"
"""Consumer group of `work`, `work_hi` and `eval`; a consumer is an actor's id, and a pending entry is its lease."""

LEARNER = "learner"
"""Consumer group of `traj` and `evald`, and its only consumer: a new incarnation inherits the pending list by name."""


@dataclass(frozen=True, slots=True)
class Keys:
    """Names of one run's keys. Types: S string, H hash, X stream."""

    run: str

    def __post_init__(self) -> None:
        if not RUN_NAME.fullmatch(self.run):
            raise ConfigError(
                f"run name {self.run!r} is not allowed",
                fix="use 1 to 63 of a-z, 0-9 and -, beginning with a letter or digit",
            )

    def _key(self, name: str) -> str:
        return f"{{{self.run}}}:{name}"

    @property
    def meta(self) -> str:
        """S: the run's `RunSpec` as JSON; no secrets."""
        return self._key("meta")

    @property
    def incarnation(self) -> str:
        """S: fencing token, the number of the learner that may write."""
        return self._key("incarnation")

    @property
    def holder(self) -> str:
        """S: nonce of the learner that may write: two of one number, on copies of the claims, differ in it."""
        return self._key("holder")

    @property
    def cursor(self) -> str:
        """S: next `seq` to issue."""
        return self._key("cursor")

    @property
    def lwm(self) -> str:
        """S: low watermark, every smaller `seq` is trained or retired behind a durable checkpoint."""
        return self._key("lwm")

    @property
    def ckpt(self) -> str:
        """S: last committed checkpoint, as the learner describes it."""
        return self._key("ckpt")

    @property
    def ctl(self) -> str:
        """S: `Control` as JSON; only the learner writes it."""
        return self._key("ctl")

    @property
    def request(self) -> str:
        """H: an operator's request, `id` and `verb`; not a string, so that operators need no right to write strings."""
        return self._key("request")

    @property
    def weights(self) -> str:
        """S: newest announced weights and where they lie, as JSON."""
        return self._key("weights")

    @property
    def plans(self) -> str:
        """H: batch -> plan record, kept until the checkpoint that covers it."""
        return self._key("plans")

    @property
    def dlq(self) -> str:
        """S: list of the run's dead letters, as JSON; the letters themselves are in its folder."""
        return self._key("dlq")

    @property
    def requeue(self) -> str:
        """H: name of a requeue that an operator asks for; the learner deletes what it has noted."""
        return self._key("requeue")

    @property
    def work(self) -> str:
        """X: orders as issued."""
        return self._key("work")

    @property
    def work_hi(self) -> str:
        """X: orders that came back; read first, so that slow prompts are not pushed to the end."""
        return self._key("work:hi")

    @property
    def eval(self) -> str:
        """X: evaluation orders."""
        return self._key("eval")

    @property
    def evald(self) -> str:
        """X: evaluation results."""
        return self._key("evald")

    @property
    def traj(self) -> str:
        """X: published groups and `tombstone` entries, until a checkpoint covers them."""
        return self._key("traj")

    @property
    def pub(self) -> str:
        """H: seq -> `open:<attempt>` or `done:<attempt>:<traj id>`, from issue to low watermark."""
        return self._key("pub")

    @property
    def sizes(self) -> str:
        """H: traj id -> bytes of its payload, for exactly the entries in `traj`."""
        return self._key("sizes")

    @property
    def n(self) -> str:
        """H: counters; `bytes` is the sum of `sizes`."""
        return self._key("n")

    @property
    def metrics(self) -> str:
        """H: `learner`, numbers of the newest batch and sums over all, as the learner describes them; `heartbeat`, its
        `LearnerState`."""
        return self._key("metrics")

    @property
    def actors(self) -> str:
        """H: actor id -> `ActorState` as JSON; a leading `!` marks one whose leases were taken away."""
        return self._key("actors")

    @property
    def turns(self) -> str:
        """H: version -> the actor that loads it again for an evaluation."""
        return self._key("turns")

    @property
    def reaper(self) -> str:
        """H: `record`, of whoever revokes leases now: the learner, or an actor while that is silent."""
        return self._key("reaper")

    @property
    def relays(self) -> str:
        """H: URL of a machine that offers versions to others -> which, and when it said so."""
        return self._key("relays")

    @property
    def desired(self) -> str:
        """H: the number of actors that an operator wants, as `Desired`."""
        return self._key("desired")

    @property
    def leave(self) -> str:
        """H: actor id -> seconds that it has to finish its orders, before it hands them back and leaves."""
        return self._key("leave")

    @property
    def news(self) -> str:
        """X: topics of what was written, in order; the oldest are trimmed."""
        return self._key("news")

    def wake(self, part: int) -> str:
        """Return the name of a stream (X) with one entry, which wakes a part of the readers."""
        return f"{self.news}:{part}"
