"""The delivery protocol as a state machine: rules are what may happen, invariants what must hold after each.

`test_protocol_machine.py` says what it is for and how long it runs.
"""

import contextlib
import sys
from collections.abc import Callable
from typing import Any

import hypothesis.strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from protocol_actors import Actor
from protocol_model import MAX_TRIES, SPEC, TIGHT, CrashError, Learner, Storage, act_as_zombie, check_learner
from protocol_site import Site

from isentrope.errors import BrokerChangedError, FencedError
from isentrope.rollout.wire.control import Mode

PRICE = 3
"""Productive rules between two faults."""

LEARNER_FAULTS = ["crash", "crash before plan", "crash after plan", "crash after update"]
COMMIT_FAULTS = ["before write", "before pointer", "before script", "inside script", "after script"]
ACTOR_FAULTS = [
    "twice",
    "poison",
    "fail",
    "dies",
    "dies and is reaped",
    "lease race",
    "lost reply",
    "lost reply found",
]
BROKER_FAULTS = ["kill", "roll back", "lose"]
ZOMBIE_ACTS = ["read", "issue", "plan", "announce", "commit", "commit", "reconcile", "meet"]
STEPS = [
    "issue",
    "take",
    "publish",
    "read",
    "train",
    "retire all",
    "shed",
    "poison",
    "requeue",
    "sweep",
    "hand back",
    "reap",
    "refresh",
    "start",
    "save",
]


class Protocol(RuleBasedStateMachine):
    """One run, from its first learner on."""

    def __init__(self, site: Site) -> None:
        super().__init__()
        self.site = site
        self.storage = Storage()
        self.announced: dict[int, tuple[int, str]] = {}
        self.mode = Mode.ASYNC
        self.learner: Learner | None = None
        self.zombies: list[Learner] = []
        self.gone: set[str] = set()
        self.kept = True
        self.expected: dict[int, str] = {}
        self.committed: list[int] = [0]
        self.credit = 0

    @initialize(tight=st.booleans())
    def begin(self, tight: bool) -> None:
        self.spec = TIGHT if tight else SPEC
        self.site.reset()
        self.broker = self.site.connect()
        self.actors = [Actor(self.broker, name) for name in "ab"]
        self.start()

    def live(self, act: Callable[[Learner], object]) -> None:
        """Lets the live learner act, as its loop would: a broker that came back is met first."""
        learner = self.learner
        if learner is None:
            return
        try:
            act(learner)
        except BrokerChangedError:
            learner.meet()
        except CrashError:
            self.crash()

    def crash(self) -> None:
        assert self.learner is not None
        self.expected = dict(self.learner.reached) if self.kept else {}
        self.learner = None

    def commit(self, crash: str = "") -> None:
        def act(learner: Learner) -> None:
            learner.checkpoint(crash)
            self.committed.append(learner.durable.number)
            self.kept = self.kept or not learner.uncommitted

        self.live(act)

    # --- work

    @rule(rounds=st.integers(1, 5), save=st.booleans(), commit=st.booleans())
    def work(self, rounds: int, save: bool, commit: bool) -> None:
        self.start()
        if save:
            self.site.save()
        self.credit += rounds
        for _ in range(rounds):
            self.round()
        if commit:
            self.commit()

    def round(self) -> None:
        self.live(Learner.issue)
        for actor in self.actors:
            actor.take(2)
            actor.publish()
            actor.publish()
        self.live(lambda learner: learner.read(4))
        self.live(Learner.train)

    @rule(what=st.sampled_from(STEPS), who=st.integers(0, 1))
    def step(self, what: str, who: int) -> None:
        """One small thing at a time, in any order."""
        actor = self.actors[who]
        steps: dict[str, Callable[[], object]] = {
            "issue": lambda: self.live(Learner.issue),
            "take": lambda: actor.take(2),
            "publish": actor.publish,
            "read": lambda: self.live(lambda learner: learner.read(2)),
            "train": lambda: self.live(Learner.train),
            "retire all": lambda: self.live(Learner.retire_all),
            "shed": lambda: self.live(Learner.shed),
            "poison": lambda: self.live(Learner.poison),
            "requeue": self.requeue,
            "sweep": lambda: self.live(Learner.sweep),
            "hand back": actor.hand_back,
            "reap": self.reap,
            "refresh": actor.refresh,
            "start": self.start,
            "save": self.site.save,
        }
        self.credit += 1
        steps[what]()

    @rule(mode=st.sampled_from(Mode))
    def switch(self, mode: Mode) -> None:
        self.mode = mode
        self.live(lambda learner: learner.set_mode(mode))

    def requeue(self) -> None:
        """An operator marks what is dead, whether a learner lives or not."""
        dead = self.storage.dead
        names = {name for letter in self.storage.letters for seq, name in letter.items() if seq in dead}
        self.storage.marks |= names
        self.live(Learner.requeue)

    def reap(self) -> None:
        for name in sorted(self.gone):
            self.broker.call("reap", name, "", MAX_TRIES)

    # --- learners

    def start(self) -> None:
        if self.learner is None:
            self.learner = self.load()
            self.fence()

    def load(self) -> Learner:
        learner = Learner(self.site.connect(), self.storage, self.announced, self.mode, self.spec)
        while self.committed[-1] in self.storage.unreadable:
            self.committed.pop()
        begins, committed = learner.durable, self.storage.checkpoints[self.committed[-1]]
        assert len(begins.lineage) >= len(committed.lineage), "I9: started behind the last committed checkpoint"
        return learner

    def fence(self) -> None:
        assert self.learner is not None
        self.learner.start()
        for batch, weights in self.expected.items():
            if batch > len(self.learner.durable.lineage):
                assert self.learner.reached.get(batch) == weights, f"I7: batch {batch} was trained otherwise before"
        self.expected = {}

    # --- faults

    solvent = precondition(lambda self: self.credit >= PRICE)

    @solvent
    @rule(who=st.integers(0, 1), how=st.sampled_from(ACTOR_FAULTS))
    def actor_fault(self, who: int, how: str) -> None:
        self.credit = 0
        self.live(Learner.issue)
        actor = self.actors[who]
        actor.take(2)
        match how:
            case "dies" | "dies and is reaped":
                self.gone.add(actor.die())
                if how == "dies and is reaped":
                    self.reap()
            case "lease race":  # a reaper at idle 0, while the owner lives
                self.broker.call("reap", actor.port.actor, "", MAX_TRIES)
                actor.rejoin()
            case "lost reply":
                actor.lose_take()
                self.gone.add(actor.die())
            case "lost reply found":
                actor.lose_take()
                actor.refresh()
            case _:
                actor.publish(how)

    @solvent
    @rule(how=st.sampled_from(LEARNER_FAULTS))
    def learner_fault(self, how: str) -> None:
        self.credit = 0
        self.live(lambda learner: learner.train(how.removeprefix("crash").strip()))
        if self.learner is not None:
            self.crash()

    @solvent
    @rule(how=st.sampled_from(COMMIT_FAULTS))
    def commit_fault(self, how: str) -> None:
        self.credit = 0
        self.commit(how)

    @solvent
    @rule(count=st.integers(1, 3))
    def read_reply_lost(self, count: int) -> None:
        self.credit = 0
        self.live(Learner.issue)
        self.actors[0].take(1)
        self.actors[0].publish()
        traj = self.broker.keys.traj
        self.broker.group_read(lambda client: client.xreadgroup("learner", "learner", {traj: ">"}, count))

    @solvent
    @rule()
    def checkpoint_unreadable(self) -> None:
        """The newest one is damaged, and the learner has to start again."""
        self.credit = 0
        self.learner = None
        newest = self.storage.load().number
        if newest:
            self.storage.unreadable.add(newest)
        self.expected, self.kept = {}, False

    @solvent
    @rule(meanwhile=st.lists(st.sampled_from(["train", "commit", "issue", "read"]), max_size=3))
    def take_over(self, meanwhile: list[str]) -> None:
        """A new learner starts while the old one lives; the old one goes on until the new one has fenced."""
        self.credit = 0
        self.start()
        old = self.learner
        assert old is not None
        new = self.load()
        acts: dict[str, Callable[[], object]] = {
            "train": old.train,
            "commit": old.checkpoint,
            "issue": old.issue,
            "read": lambda: old.read(2),
        }
        with contextlib.suppress(BrokerChangedError):
            for act in meanwhile:
                acts[act]()
        self.expected = dict(old.reached) if self.kept and "commit" not in meanwhile else {}
        self.zombies.append(old)
        self.learner = new
        self.fence()

    @precondition(lambda self: self.zombies)
    @rule(act=st.sampled_from(ZOMBIE_ACTS))
    def zombie_acts(self, act: str) -> None:
        try:
            act_as_zombie(self.zombies[0], act)
        except BrokerChangedError:
            pass  # it has not met the broker yet
        except FencedError:
            self.zombies.pop(0)

    @solvent
    @rule(how=st.sampled_from(BROKER_FAULTS), crash=st.booleans())
    def broker_fault(self, how: str, crash: bool) -> None:
        self.credit = 0
        if crash and self.learner is not None:
            self.crash()
        {"kill": self.site.kill, "roll back": self.site.roll_back, "lose": self.site.lose}[how]()
        if how != "kill":
            self.expected, self.kept = {}, False

    # --- what must hold

    @invariant()
    def every_seq_once(self) -> None:
        if self.learner is not None:
            check_learner(self.learner)

    @invariant()
    def bytes_add_up(self) -> None:
        """I5; the payloads themselves are added up."""
        keys = self.broker.keys

        def read(client: Any) -> Any:
            pipeline = client.pipeline(transaction=False)
            pipeline.xrange(keys.traj).hgetall(keys.sizes).hget(keys.n, "bytes").info("stats")
            return pipeline.execute()

        entries, table, counted, stats = self.broker.run(read)
        sizes = {entry_id: len(fields.get(b"payload", b"")) for entry_id, fields in entries}
        assert {entry_id: int(size) for entry_id, size in table.items()} == sizes, "I5: sizes"
        assert int(counted or 0) == sum(sizes.values()), "I5: bytes"
        assert stats["evicted_keys"] == 0
        if self.kept and self.learner is not None:
            assert self.learner.uncommitted <= sizes.keys(), "I7: a successor could not repeat what was trained"

    def teardown(self) -> None:
        if sys.exc_info()[0] is None and self.site.brokers:
            self.settle()

    def settle(self) -> None:
        """I4: with all faults off, within sixty rounds, three more batches and the end of every seq issued so far."""
        self.start()
        self.round()
        learner = self.learner
        assert learner is not None
        batch, issued = learner.batch + 3, set(range(learner.port.view.cursor()))
        for _ in range(60):
            self.reap()
            for actor in self.actors:
                actor.refresh()
            self.live(Learner.sweep)
            self.round()
            self.every_seq_once()
            if learner.batch >= batch and issued <= learner.trained | learner.retired.keys():
                self.commit()
                self.bytes_add_up()
                return
        raise AssertionError(f"I4: no progress\n{self.portrait()}")

    def portrait(self) -> str:
        """Everything that can explain a standstill."""
        assert self.learner is not None
        keys, run = self.broker.keys, self.broker.run
        lines = [f"learner {self.learner.incarnation}: batch {self.learner.batch}, lwm {self.learner.durable.lwm}"]
        lines.append(f"trained {sorted(self.learner.trained)}, retired {self.learner.retired}")
        for name in ("cursor", "lwm", "ctl", "incarnation"):
            lines.append(f"{name}: {run(lambda c, name=name: c.get(getattr(keys, name)))}")
        for stream in (keys.work, keys.work_hi, keys.traj):
            entries = run(lambda c, stream=stream: c.xrange(stream))
            lines.append(f"{stream}: {[(e, f.get(b'seq'), f.get(b'kind')) for e, f in entries]}")
        lines.append(f"pub: {run(lambda c: c.hgetall(keys.pub))}")
        return "\n".join(lines)
