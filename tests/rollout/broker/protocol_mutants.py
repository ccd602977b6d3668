"""Protocols with one part removed. The state machine must fail for each, or it does not test that part."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from protocol_model import Learner

from isentrope.learner.intake.buffer import Buffer
from isentrope.learner.intake.feeder import Feeder
from isentrope.learner.intake.ledger import Ledger, _of_plan
from isentrope.learner.training.checkpoint_store import CheckpointStore, Claim
from isentrope.learner.training.dead_letters import DeadLetters
from isentrope.rollout.broker import connection
from isentrope.rollout.broker.connection import Broker
from isentrope.rollout.broker.learner_port import Entry, LearnerPort
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


def claim_by_pointer(store: CheckpointStore) -> Claim:
    """A claim that two learners may share."""
    number = max([0, *store._pointers()]) + 1
    (store.root / "claims").mkdir(parents=True, exist_ok=True)
    claim = Claim(number, store._newest(number - 1), "")
    (store.root / "claims" / str(number)).write_text(json.dumps({"parent": claim.parent}))
    store.claimed, store._start = claim, claim.parent
    return claim


def finish_for_all(store: CheckpointStore, *arguments: Any) -> None:
    """Every learner moves the pointer of the newest, and does not ask who that is."""
    own, newest = store.claimed, CheckpointStore.newest_claim(store)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CheckpointStore, "newest_claim", lambda _: own.incarnation)
        FINISH(store, *arguments)
    (store.root / f"latest.{newest}").write_text(arguments[0])


def refence_blindly(port: LearnerPort, *, newest_claim: int, lwm: int, cursor: int) -> None:
    REFENCE(port, newest_claim=0, lwm=lwm, cursor=cursor)


def drop_what_is_trained(feeder: Feeder) -> None:
    entries = [held.entry for held in feeder._buffer._held.values()]
    TRAINED(feeder)
    feeder.call(lambda port: port.discard([entry for entry in entries if entry in feeder._buffer._uncommitted]))


def add_unchecked(buffer: Buffer, entry: Entry) -> bool:
    """Adds an entry, whatever the ledger says of it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Ledger, "known", lambda ledger, seq: False)
        return ADD(buffer, entry)


def sweep_at_start_alone(port: LearnerPort) -> list[Entry]:
    return [] if port._handed else PENDING(port)


def requeue_often(ledger: Ledger, seq: int, requeue: str) -> bool:
    ledger._requeues.discard(_of_plan(requeue))
    return REQUEUE(ledger, seq, requeue)


ADD = Buffer.add
FINISH = CheckpointStore.finish
REQUEUE = Ledger.requeue
REFENCE = LearnerPort.refence
TRAINED = Feeder.trained
PENDING = LearnerPort.pending

MUTANTS: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "claims are not exclusive (C1)": method(CheckpointStore, "claim", claim_by_pointer),
    "one pointer for all learners (C2)": method(CheckpointStore, "finish", finish_for_all),
    "versions are reused (C3)": method(Learner, "version", lambda learner: version_of(1, learner.batch)),
    "no sweep of the pending list (C4)": method(LearnerPort, "pending", sweep_at_start_alone),
    "the watermark only rises (C5)": script(
        "fence", "redis.call('SET', lwm, low)", "redis.call('SET', lwm, math.max(low, redis.call('GET', lwm) or 0))"
    ),
    "the buffer outlives the broker (C7)": method(Buffer, "clear", nothing),
    "no tombstones (C8)": script("reap", "elseif open then", "elseif false then"),
    "claims are not checked at reconnection (C18)": method(LearnerPort, "refence", refence_blindly),
    "the server's process is not pinned": method(Broker, "pin", nothing),
    "no ledger check": method(Buffer, "add", add_unchecked),
    "what is trained is dropped before the commit": method(Feeder, "trained", drop_what_is_trained),
    "no replay": method(Buffer, "queue_replays", lambda buffer, plans: 0),
    "no reconcile": method(Feeder, "_reconcile", nothing),
    "publish does not ask whether the order is open": script("publish", "== 'open:' .. attempt", "~= ''"),
    "dead letters are not read at the start": method(DeadLetters, "restore", nothing),
    "a requeue is carried out at every start": method(Ledger, "requeue", requeue_often),
    "reconcile passes over what is requeued": script("reconcile", "ARGV[i]) < number", "ARGV[i]) < 0"),
    "drop forgets the bytes": script("drop", "count(n, 'bytes',", "tostring("),
    "the byte budget holds back the next batch": script("issue", "math.min(bound, needed)", "first"),
    "issue is not fenced": script("issue", CHECK, ""),
    "plan is not fenced": script("set", CHECK, ""),
    "commit is not fenced": script("commit", CHECK, ""),
    "reconcile is not fenced": script("reconcile", CHECK, ""),
    "drop is not fenced": script("drop", CHECK, ""),
}
