"""Protocols with one part removed. The state machine must fail for each, or it does not test that part."""

from collections.abc import Callable
from typing import Any

import pytest
from protocol_model import Checkpoint, Learner, Storage

from isentrope.rollout.broker import connection
from isentrope.rollout.broker.connection import Broker
from isentrope.rollout.broker.learner_port import LearnerPort
from isentrope.rollout.wire.types import version_of

CHECK = "if held ~= ARGV[1] then return redis.error_reply('FENCED ' .. held) end"


def script(name: str, old: str, new: str) -> Callable[[pytest.MonkeyPatch], None]:
    """A mutant of one Lua script."""

    def mutate(patch: pytest.MonkeyPatch) -> None:
        original = connection._Script.__init__

        def load(self: Any, loaded: str) -> None:
            original(self, loaded)
            if loaded == name:
                assert old in self.text, f"{name}.lua has changed; change its mutant"
                self.text = self.text.replace(old, new)
                self.digest = connection.hashlib.sha1(self.text.encode()).hexdigest()

        patch.setattr(connection._Script, "__init__", load)

    return mutate


def method(owner: type[object], name: str, replacement: Callable[..., Any]) -> Callable[[pytest.MonkeyPatch], None]:
    return lambda patch: patch.setattr(owner, name, replacement)


def nothing(*_: object, **__: object) -> None:
    """Instead of something."""


def claim_by_checkpoint(storage: Storage, parent: Checkpoint) -> int:
    number = max(storage.pointers, default=0) + 1
    storage.parents[number] = parent.number
    return number


def point_for_all(storage: Storage, claim: int, checkpoint: Checkpoint) -> None:
    storage.pointers[storage.newest_claim] = checkpoint.number


def refence_blindly(port: LearnerPort, *, newest_claim: int, lwm: int, cursor: int) -> None:
    REFENCE(port, newest_claim=0, lwm=lwm, cursor=cursor)


REFENCE = LearnerPort.refence

MUTANTS: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "claims are not exclusive (C1)": method(Storage, "claim", claim_by_checkpoint),
    "one pointer for all learners (C2)": method(Storage, "point", point_for_all),
    "versions are reused (C3)": method(Learner, "version", lambda learner: version_of(1, learner.batch)),
    "no sweep of the pending list (C4)": method(Learner, "sweep", nothing),
    "the watermark only rises (C5)": script(
        "fence", "redis.call('SET', lwm, low)", "redis.call('SET', lwm, math.max(low, redis.call('GET', lwm) or 0))"
    ),
    "the buffer outlives the broker (C7)": method(Learner, "forget_buffer", nothing),
    "no tombstones (C8)": script("reap", "elseif open then", "elseif false then"),
    "claims are not checked at reconnection (C18)": method(LearnerPort, "refence", refence_blindly),
    "the server's process is not pinned": method(Broker, "pin", nothing),
    "no ledger check": method(Learner, "knows", lambda learner, seq: seq in learner._buffer),
    "what is trained is dropped before the commit": method(Learner, "needs", lambda learner, entry: False),
    "no replay": method(Learner, "replay", nothing),
    "no reconcile": method(Learner, "reconcile", nothing),
    "publish does not ask whether the order is open": script("publish", "== 'open:' .. attempt", "~= ''"),
    "dead letters are not read at the start": method(Learner, "restore", nothing),
    "a requeue is carried out at every start": method(Learner, "may_open", lambda learner, seq, name: True),
    "reconcile passes over what is requeued": script("reconcile", "ARGV[i]) < number", "ARGV[i]) < 0"),
    "drop forgets the bytes": script("drop", "count(n, 'bytes',", "tostring("),
    "the byte budget holds back the next batch": script("issue", "math.min(bound, needed)", "first"),
    "issue is not fenced": script("issue", CHECK, ""),
    "plan is not fenced": script("set", CHECK, ""),
    "commit is not fenced": script("commit", CHECK, ""),
    "reconcile is not fenced": script("reconcile", CHECK, ""),
    "drop is not fenced": script("drop", CHECK, ""),
}
