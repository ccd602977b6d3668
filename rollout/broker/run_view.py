"""Read access to a run for everyone, and what an operator may ask for.

Both ports and `isentrope status` use it. It only reads, apart from `request`, `want` and `ask_to_leave`; calls behave
as described in `connection.py`.
"""

import math
import re
import secrets
import time
from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from isentrope.errors import ConfigError, UnreachableError
from isentrope.long_waits import waiting_for
from isentrope.rollout.broker.connection import Broker
from isentrope.rollout.broker.keys import ACTORS, LEARNER
from isentrope.rollout.broker.learner_state import HEARTBEAT, LearnerState, learner_state
from isentrope.rollout.broker.news import Topic, wake
from isentrope.rollout.wire.control import Control, Desired, Mode, RunState
from isentrope.rollout.wire.plain_text import printable
from isentrope.rollout.wire.proof import Proof
from isentrope.rollout.wire.spec import RunSpec
from isentrope.rollout.wire.weights import Announcement, Manifest

Verb: TypeAlias = Literal["async", "on_policy", "stop"]
"""Request of an operator."""

GONE = "!"
"""First character of the record of an actor whose leases were revoked; its heartbeats do not overwrite it."""


COUNT = re.compile(rb"-?\d{1,18}")

Whole: TypeAlias = Annotated[int, Field(ge=0, lt=1 << 63)]

METRICS = "learner"
"""Field of the learner's metrics."""


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

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    id: str
    host: str = ""
    pid: Whole = 0
    state: ActorStage = ActorStage.JOINING
    version: Whole = 0
    """Version of the weights it serves; 0: none yet."""
    digest: str = ""
    """Digest of those weights as the manifest states it."""
    fetching: Whole = 0
    """Version whose files it fetches, which the learner keeps for it; 0: none."""
    proof: Proof | None = None
    """Proof that they are the learner's; None: it serves none."""
    refused: Whole = 0
    """Loads that failed, or were refused because they were not the learner's policy, since the process began."""
    engine_silent_s: float = 0.0
    """Seconds for which its engine has not answered a call; 0: it answers."""
    load_s: float = 0.0
    """Seconds that the newest load of a version took, from its fetched files to being served; 0: none was loaded."""
    leases: Whole = 0
    tokens_per_s: float = 0.0
    boot: str = ""
    """Random id of the process: differs between two processes with the same actor id."""
    last_error: str = ""
    beat: Whole = 0
    """Heartbeat counter; set by the port."""
    at_ms: Whole = 0
    """Server's time of the heartbeat, in milliseconds; set by the broker."""
    silent_s: float = 0.0
    """Seconds since the last heartbeat: on the reader's clock once it has seen the record change, before that on the
    server's; set when read."""


class RunView:
    """Reads of one run."""

    def __init__(self, broker: Broker) -> None:
        self.broker = broker
        self._keys = broker.keys
        self._seen: dict[str, tuple[str, float]] = {}
        self._learner_seen = ("", 0.0)

    def spec(self, deadline_s: float, *, begun: bool = False) -> RunSpec:
        """Return the run's facts; wait up to `deadline_s` for a learner to open the run.

        begun: not those of an earlier start. The command that begins a run again deletes the control state, and its
        learner writes that with the facts; in between these name files that are not there any more.

        Raises:
            UnreachableError: no learner opened it in time.
            ConfigError: another version of this program opened it.
        """
        with waiting_for(f"a learner to open run {self._keys.run!r} at {self.broker.place}"):
            text = self._opened(deadline_s, begun=begun)
        try:
            return RunSpec.model_validate_json(text)
        except ValidationError as error:
            raise ConfigError(
                f"run {self._keys.run!r} was opened by {_opener(text)}, which this one cannot join",
                where=f"{error.error_count()} of its facts are unknown here",
                fix="install the same version everywhere",
            ) from None

    def control(self) -> Control | None:
        """Return the control state with an operator's open request, if any; None: no learner has opened the run."""
        control = self.control_state()
        if control is None:
            return None
        asked = {name: _text(value) for name, value in self.fields(self._keys.request).items()}
        if asked.get("id", control.served) == control.served:
            return control
        verb = asked.get("verb", "")
        wish: dict[str, object] = {"requested_stop": True} if verb == "stop" else {}
        if verb in list(Mode):
            wish["requested_mode"] = Mode(verb)
        return control.model_copy(update={"request": asked["id"], **wish})

    def control_state(self) -> Control | None:
        """Return the control state without requests, which actors may not read; None as in `control`."""
        text = self.text(self._keys.ctl)
        return Control.model_validate_json(text) if text else None

    def request(self, verb: Verb) -> str:
        """Ask the learner to change the mode or to end the run at its next batch; return the request's id. A later
        request replaces this one."""
        asked = secrets.token_hex(8)
        self._ask(Topic.REQUEST, self._keys.request, {"id": asked, "verb": verb})
        return asked

    def newest_request(self) -> str:
        """Return the id of the last request, answered or not; empty: there was none, or the broker has lost it."""
        return _text(self.fields(self._keys.request).get("id", b""))

    def ask_to_stop(self) -> bool:
        """Ask the learner to end the run, unless it is asked already, or has ended it; return True if this asks.

        Whoever waits for the end calls it again: a broker that has lost the request is asked once more. Without a
        learner that has opened the run nobody is asked.
        """
        control = self.control()
        if control is None or control.requested_stop or control.state is RunState.STOP:
            return False
        self.request("stop")
        return True

    def want(self, actors: int) -> Desired:
        """Ask for this number of actors, until another number is asked for; return what was written.

        It stays until it is replaced. Whoever starts actors reads it by `desired`, and converges.
        """
        desired = Desired(actors=actors, id=secrets.token_hex(8), at=self.server_time_s())
        self._ask(Topic.DESIRED, self._keys.desired, desired.model_dump(mode="json"))
        return desired

    def desired(self) -> Desired | None:
        """Return the number of actors that was asked for last; None: none was."""
        record = {name: _text(value) for name, value in self.fields(self._keys.desired).items()}
        return Desired.model_validate(record) if record else None

    def ask_to_leave(self, actors: Sequence[str], grace_s: float) -> None:
        """Ask actors, by id, to leave: each finishes its orders for at most `grace_s`, hands the rest back, and goes.

        An actor sees it at once, at the latest with its next heartbeat but one, also while its engine starts. Its
        record and the request are deleted when it has left; one that has died is reaped as always, and its request is
        deleted with its record. Nothing is killed here.
        """
        if actors:
            self._ask(Topic.LEAVE, self._keys.leave, {actor: str(grace_s) for actor in actors})

    def leaving(self) -> dict[str, float]:
        """Return the actors that were asked to leave and are still there, with the seconds that each was given."""
        return {name: seconds_of(value) for name, value in self.fields(self._keys.leave).items()}

    def dead_letters(self) -> str:
        """Return the list of the run's dead letters as the learner wrote it; empty: there are none."""
        return self.text(self._keys.dlq)

    def requeue(self, names: Sequence[str]) -> None:
        """Ask the learner to have groups of dead letters made again, by the names of the requeues; it may be asked
        often."""
        self._ask(Topic.REQUEST, self._keys.requeue, dict.fromkeys(names, "asked"))

    def requeues(self) -> list[str]:
        """Return the names of the requeues that an operator has asked for and the learner has not noted."""
        return sorted(self.fields(self._keys.requeue))

    def announcement(self) -> Announcement | None:
        """Return the newest announced weights and where they lie; None: none yet."""
        text = self.text(self._keys.weights)
        return Announcement.model_validate_json(text) if text else None

    def weights(self) -> Manifest | None:
        """Return the newest announced weights; None: none yet."""
        announced = self.announcement()
        return announced.manifest if announced is not None else None

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
        now, server_s = time.monotonic(), self.server_time_s()
        records = {name: _text(record) for name, record in self.fields(self._keys.actors).items()}
        states = {name: actor_state(name, record) for name, record in sorted(records.items())}
        before, self._seen = self._seen, {}
        for name, state in states.items():
            age_s = max(0.0, server_s - state.at_ms / 1000) if state.at_ms else 0.0
            record, moved_at = before.get(name, (records[name], now - age_s))
            self._seen[name] = (records[name], moved_at if record == records[name] else now)
        return [state.model_copy(update={"silent_s": now - self._seen[name][1]}) for name, state in states.items()]

    def counters(self) -> dict[str, int]:
        """Return the counters of the run: issued, published, duplicates, tombstones, reaped, deaths, reissued, bytes,
        and the learner's own; not those that an actor has made unreadable."""
        return {name: int(value) for name, value in self.fields(self._keys.n).items() if COUNT.fullmatch(value)}

    def metrics(self) -> str:
        """Return the learner's metrics as it described them last; empty: none yet."""
        return _text(self.fields(self._keys.metrics).get(METRICS, b""))

    def learner(self) -> LearnerState | None:
        """Return the state of the learner that holds the run, with the seconds since this view last saw its record
        change; None: it has sent no heartbeat."""
        record = _text(self.fields(self._keys.metrics).get(HEARTBEAT, b""))
        state = learner_state(record)
        if state is None or state.incarnation != self.incarnation():
            return None
        now = time.monotonic()
        if record != self._learner_seen[0]:
            first = not self._learner_seen[0]
            age_s = max(0.0, self.server_time_s() - state.at_ms / 1000) if first else 0.0
            self._learner_seen = (record, now - age_s)
        return state.model_copy(update={"silent_s": now - self._learner_seen[1]})

    def queues(self) -> dict[str, int]:
        """Return the lengths: `waiting` and `leased` orders, `unread` and `uncommitted` groups, `eval` orders."""
        work, again = self._length(self._keys.work), self._length(self._keys.work_hi)
        traj = self._length(self._keys.traj)
        leased = self._pending(self._keys.work, ACTORS) + self._pending(self._keys.work_hi, ACTORS)
        read = self._pending(self._keys.traj, LEARNER)
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

    def fields(self, key: str) -> dict[str, bytes]:
        """Return what a hash holds, by field; empty if there is none."""
        table = self.broker.run(lambda client: client.hgetall(key))
        return {_text(name): value for name, value in table.items()}

    def _opened(self, deadline_s: float, *, begun: bool) -> str:
        """Return the text of the run's facts, once a learner has written it."""
        deadline = time.monotonic() + deadline_s
        while not (text := self.text(self._keys.meta)) or (begun and not self._holds(text)):
            if time.monotonic() > deadline:
                raise UnreachableError(
                    f"no learner has opened run {self._keys.run!r} at {self.broker.place} for {deadline_s:.0f} s",
                    fix="start the learner, or check the run's name",
                )
            time.sleep(min(0.2, deadline_s))
        return text

    def _holds(self, facts: str) -> bool:
        """Return True if a learner has the run open with these facts: it writes them and the control state at once."""
        return bool(self.text(self._keys.ctl)) and self.text(self._keys.meta) == facts

    def _length(self, stream: str) -> int:
        return int(self.broker.run(lambda client: client.xlen(stream)))

    def _pending(self, stream: str, group: str) -> int:
        """Return how many entries a group has read and not acknowledged; the server counts them as they come and go."""
        groups = self.broker.group_read(lambda client: client.xinfo_groups(stream))
        return sum(int(each["pending"]) for each in groups or [] if _text(each["name"]) == group)

    def _ask(self, topic: Topic, key: str, fields: dict[str, Any]) -> None:
        self.broker.call("ask", topic, *(part for pair in fields.items() for part in pair), keys=[key])
        wake(self.broker)

    def server_time_s(self) -> float:
        """Return the time on the broker's clock, in seconds of Unix time."""
        seconds, microseconds = self.broker.run(lambda client: client.time())
        return float(seconds) + float(microseconds) / 1e6


def _text(value: object) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _opener(spec: str) -> str:
    """Return the version of this program that wrote a run's facts, as well as they can be read."""
    found = re.search(r'"isentrope": ?"([^"]{1,40})"', spec)
    return f"isentrope {found[1]}" if found is not None else "another version of isentrope"


def seconds_of(value: bytes) -> float:
    """Return the seconds in which an actor shall leave; 0 if they cannot be read, for anybody may ask it to."""
    try:
        seconds = float(value)
    except ValueError:
        return 0.0
    return seconds if math.isfinite(seconds) and seconds > 0 else 0.0


def new_boot() -> str:
    """Return a random id for a process of an actor."""
    return secrets.token_hex(16)


def actor_state(name: str, record: str) -> ActorState:
    """Return the state that the record of actor `name` holds, its texts printable; one without facts if it cannot be
    read."""
    try:
        state = ActorState.model_validate_json(record.removeprefix(GONE))
    except ValidationError:
        state = ActorState(id=name, last_error="unreadable heartbeat")
    stage = ActorStage.GONE if record.startswith(GONE) else state.state
    texts = {"id": printable(name), "host": printable(state.host), "last_error": printable(state.last_error)}
    return state.model_copy(update={**texts, "state": stage})
