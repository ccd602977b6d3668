"""Read access to a run for everyone, and the one request an operator may make.

Both ports and `isentrope status` use it. It only reads, apart from `request`; calls behave as described in
`connection.py`.
"""

import secrets
import time
from enum import StrEnum
from typing import Annotated, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from isentrope.errors import InternalError, UnreachableError
from isentrope.rollout.broker.connection import Broker
from isentrope.rollout.broker.keys import ACTORS, LEARNER
from isentrope.rollout.wire.control import Control, Mode
from isentrope.rollout.wire.proof import Proof
from isentrope.rollout.wire.spec import RunSpec
from isentrope.rollout.wire.weights import Manifest

Verb: TypeAlias = Literal["async", "on_policy", "stop"]
"""Request of an operator."""

GONE = "!"
"""First character of the record of an actor whose leases were revoked; its heartbeats do not overwrite it."""


class ActorStage(StrEnum):
    """State of an actor; it returns from `gone` only as a new actor."""

    JOINING = "joining"
    SYNCING = "syncing"
    SERVING = "serving"
    STALE = "stale"
    DRAINING = "draining"
    DIRTY = "dirty"
    GONE = "gone"


class ActorState(BaseModel):
    """One actor's record, as of its last heartbeat."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    host: str = ""
    pid: int = 0
    state: ActorStage = ActorStage.JOINING
    version: int = 0
    """Version of the weights it serves; 0: none yet."""
    digest: str = ""
    """Digest of those weights as the manifest states it."""
    proof: Proof | None = None
    """Proof that they are the learner's; None: it serves none."""
    refused: int = 0
    """Loads that failed, or were refused because they were not the learner's policy, since the process began."""
    leases: int = 0
    tokens_per_s: float = 0.0
    boot: str = ""
    """Random id of the process: differs between two processes with the same actor id."""
    last_error: str = ""
    beat: int = 0
    """Heartbeat counter; set by the port."""
    silent_s: Annotated[float, Field(exclude=True)] = 0.0
    """Seconds since the reader last saw the record change, on the reader's clock; set when read."""


class RunView:
    """Reads of one run."""

    def __init__(self, broker: Broker) -> None:
        self.broker = broker
        self._keys = broker.keys
        self._seen: dict[str, tuple[str, float]] = {}

    def spec(self, deadline_s: float) -> RunSpec:
        """Return the run's facts; wait up to `deadline_s` for a learner to open the run.

        Raises:
            UnreachableError: no learner opened it in time.
            ConfigError: another version of this program opened it.
        """
        deadline = time.monotonic() + deadline_s
        while not (text := self.text(self._keys.meta)):
            if time.monotonic() > deadline:
                raise UnreachableError(
                    f"no learner has opened run {self._keys.run!r} at {self.broker.place} for {deadline_s:.0f} s",
                    fix="start the learner, or check the run's name",
                )
            time.sleep(min(0.2, deadline_s))
        try:
            return RunSpec.model_validate_json(text)
        except ValidationError as error:
            raise InternalError(
                f"run {self._keys.run!r} was opened by another version of this program",
                where=f"{error.error_count()} fields differ",
                fix="use the same version everywhere",
            ) from None

    def control(self) -> Control | None:
        """Return the control state with an operator's open request, if any; None: no learner has opened the run."""
        control = self.control_state()
        if control is None:
            return None
        asked = {name: _text(value) for name, value in self._hash(self._keys.request).items()}
        if asked.get("id", control.served) == control.served:
            return control
        wish = {"requested_stop": True} if asked["verb"] == "stop" else {"requested_mode": Mode(asked["verb"])}
        return control.model_copy(update={"request": asked["id"], **wish})

    def control_state(self) -> Control | None:
        """Return the control state without requests, which actors may not read; None as in `control`."""
        text = self.text(self._keys.ctl)
        return Control.model_validate_json(text) if text else None

    def request(self, verb: Verb) -> None:
        """Ask the learner to change the mode or to end the run at its next batch; a later request replaces this one."""
        asked = ["id", secrets.token_hex(8), "verb", verb]
        self.broker.run(lambda client: client.hset(self._keys.request, items=asked))

    def weights(self) -> Manifest | None:
        """Return the newest announced weights; None: none yet."""
        text = self.text(self._keys.weights)
        return Manifest.model_validate_json(text) if text else None

    def checkpoint(self) -> str:
        """Return the last committed checkpoint as the learner described it; empty: none."""
        return self.text(self._keys.ckpt)

    def incarnation(self) -> int:
        """Return the number of the learner that holds the run; 0: none."""
        return int(self.text(self._keys.incarnation) or "0")

    def cursor(self) -> int:
        """Return the next seq to be issued."""
        return int(self.text(self._keys.cursor) or "0")

    def actors(self) -> list[ActorState]:
        """Return all actors, by id, each with the seconds since this view last saw its record change."""
        now = time.monotonic()
        records = {name: _text(record) for name, record in self._hash(self._keys.actors).items()}
        self._seen = {
            name: self._seen[name] if name in self._seen and self._seen[name][0] == record else (record, now)
            for name, record in records.items()
        }
        return [_actor(name, record, now - self._seen[name][1]) for name, record in sorted(records.items())]

    def counters(self) -> dict[str, int]:
        """Return the counters of the run: issued, published, duplicates, tombstones, reaped, reissued, bytes, and the
        learner's own."""
        return {name: int(value) for name, value in self._hash(self._keys.n).items()}

    def queues(self) -> dict[str, int]:
        """Return the lengths: `waiting` and `leased` orders, `unread` and `uncommitted` groups, `eval` orders."""
        work, again = self._length(self._keys.work), self._length(self._keys.work_hi)
        traj = self._length(self._keys.traj)
        leased = self._leased(self._keys.work, ACTORS) + self._leased(self._keys.work_hi, ACTORS)
        read = self._leased(self._keys.traj, LEARNER)
        return {
            "waiting": work + again - leased,
            "leased": leased,
            "unread": traj - read,
            "uncommitted": traj,
            "eval": self._length(self._keys.eval),
        }

    def memory(self) -> tuple[int, int]:
        """Return the bytes the server uses, and its limit (0: none)."""
        info = self.broker.run(lambda client: client.info("memory"))
        return int(info["used_memory"]), int(info["maxmemory"])

    def text(self, key: str) -> str:
        """Return the value of a string key; empty if there is none."""
        value = self.broker.run(lambda client: client.get(key))
        return "" if value is None else _text(value)

    def _hash(self, key: str) -> dict[str, bytes]:
        table = self.broker.run(lambda client: client.hgetall(key))
        return {_text(name): value for name, value in table.items()}

    def _length(self, stream: str) -> int:
        return int(self.broker.run(lambda client: client.xlen(stream)))

    def _leased(self, stream: str, group: str) -> int:
        summary = self.broker.group_read(lambda client: client.xpending(stream, group))
        return int(summary["pending"]) if summary else 0


def _text(value: object) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _actor(name: str, record: str, silent_s: float) -> ActorState:
    try:
        state = ActorState.model_validate_json(record.removeprefix(GONE))
    except ValidationError:
        state = ActorState(id=name, last_error="unreadable heartbeat")
    stage = ActorStage.GONE if record.startswith(GONE) else state.state
    return state.model_copy(update={"id": name, "state": stage, "silent_s": silent_s})
