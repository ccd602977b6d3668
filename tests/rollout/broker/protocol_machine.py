"""The delivery protocol as a state machine: what may happen (`protocol_acts.py`), and what must hold after each act.

`test_protocol_machine.py` says what it is for and how long it runs.
"""

import contextlib
import sys
from collections.abc import Callable
from typing import Any

import hypothesis.strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from protocol_actors import Actor
from protocol_acts import ACTS, FREE, PRICE, Act
from protocol_model import MAX_TRIES, SPEC, TIGHT, CrashError, Learner, Storage, act_as_zombie, check_learner
from protocol_site import Site

from isentrope.errors import BrokerChangedError, FencedError
from isentrope.rollout.broker.reaper import Reaper
from isentrope.rollout.wire.control import Mode


class Protocol(RuleBasedStateMachine):
    """One run, from its first learner on."""

    def __init__(self, site: Site) -> None:
        super().__init__()
        self.site = site
        self.announced: dict[int, tuple[int, str]] = {}
        self.mode = Mode.ASYNC
        self.learner: Learner | None = None
        self.zombies: list[Learner] = []
        self.gone: set[str] = set()
        self.kept = True
        self.expected: dict[int, str] = {}
        self.committed: list[tuple[str, int]] = []
        """Names and batches of the checkpoints that the broker knows of."""
        self.credit = 0

    @initialize(tight=st.booleans())
    def begin(self, tight: bool) -> None:
        self.spec = TIGHT if tight else SPEC
        self.site.reset()
        self.storage = Storage(self.site.folder / "run")
        self.broker = self.site.connect()
        self.actors = [Actor(self.broker, name) for name in "ab"]
        self.start()

    def live(self, act: Callable[[Learner], object]) -> None:
        """Lets the live learner act, as its loop would; its feeder meets a broker that came back."""
        if self.learner is None:
            return
        try:
            act(self.learner)
        except CrashError:
            self.crash()

    def crash(self) -> None:
        assert self.learner is not None
        self.expected = dict(self.learner.reached) if self.kept else {}
        self.learner = None

    def commit(self, crash: str = "") -> None:
        def act(learner: Learner) -> None:
            learner.checkpoint(crash)
            self.committed.append((learner.storage.readable()[0], learner.batch))
            self.kept = self.kept or not learner.uncommitted

        self.live(act)

    # --- acts

    @rule(act=ACTS)
    def act(self, act: Act) -> None:
        """One thing happens; before a fault, enough work to pay for it."""
        name, arguments = act
        if name not in FREE:
            if self.credit < PRICE:
                self.work(PRICE - self.credit, save=False, commit=False)
            self.credit = 0
        getattr(self, name)(**arguments)

    # --- work

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
        self.gather()
        self.live(Learner.train)
        self.live(Learner.requeue)

    def gather(self) -> None:
        """Have groups made and read."""
        self.live(Learner.issue)
        for actor in self.actors:
            actor.take(2)
            actor.publish()
            actor.publish()
        self.live(Learner.read)

    def step(self, what: str, who: int) -> None:
        """One small thing at a time, in any order."""
        actor = self.actors[who]
        steps: dict[str, Callable[[], object]] = {
            "issue": lambda: self.live(Learner.issue),
            "take": lambda: actor.take(2),
            "publish": actor.publish,
            "read": lambda: self.live(Learner.read),
            "train": lambda: self.live(Learner.train),
            "retire all": lambda: self.live(Learner.retire_all),
            "shed": lambda: self.live(Learner.shed),
            "requeue": self.requeue,
            "sweep": lambda: self.live(Learner.sweep),
            "hand back": actor.hand_back,
            "reap": self.reap,
            "refresh": actor.refresh,
            "start": self.start,
            "save": self.site.save,
            Mode.ASYNC: lambda: self.switch(Mode.ASYNC),
            Mode.ON_POLICY: lambda: self.switch(Mode.ON_POLICY),
        }
        self.credit += 1
        steps[what]()

    def switch(self, mode: Mode) -> None:
        self.mode = mode
        self.live(lambda learner: learner.set_mode(mode))

    def requeue(self) -> None:
        """An operator marks what is dead, whether a learner lives or not."""
        for name in self.storage.dead.values():
            self.storage.letters.requeue(name)
        self.live(Learner.requeue)

    def reap(self) -> None:
        """Take what the dead hold, as a reaper does that saw their records stand still."""
        records = self.broker.run(lambda client: client.hgetall(self.broker.keys.actors))
        for name in sorted(self.gone):
            self.broker.call("reap", name, records.get(name.encode(), b""), MAX_TRIES)

    def revoke(self, name: str) -> None:
        """Take what a process holds, as a command does that saw it end. A broker that lost its record names nobody."""
        Reaper(self.broker, self.spec).revoke_process(name)

    # --- learners

    def start(self) -> None:
        if self.learner is None:
            self.learner = self.load()
            self.fence()

    def load(self) -> Learner:
        learner = Learner(self.site.connect(), self.storage, self.announced, self.mode, self.spec)
        while self.committed and not self.storage.is_readable(self.committed[-1][0]):
            self.committed.pop()
        known = self.committed[-1][1] if self.committed else 0
        assert learner.batch >= known, "I9: started behind the last committed checkpoint"
        return learner

    def fence(self) -> None:
        assert self.learner is not None
        began = self.learner.batch
        self.learner.start()
        for batch, weights in self.expected.items():
            if batch > began:
                assert self.learner.reached.get(batch) == weights, f"I7: batch {batch} was trained otherwise before"
        self.expected = {}

    # --- faults

    def actor_fault(self, who: int, how: str) -> None:
        self.live(Learner.issue)
        actor = self.actors[who]
        taken = actor.take(2)
        match how:
            case "dies":
                self.gone.add(actor.die())
            case "dies and is reaped":
                self.gone.add(dead := actor.die())
                self.revoke(dead)
            case "dies too often":
                self.die_too_often(actor, taken)
            case "lease race":  # as after a cut between the command and an owner that lives
                self.revoke(actor.port.actor)
                actor.rejoin()
            case "lost reply":
                actor.lose_take()
                self.gone.add(actor.die())
            case "lost reply found":
                actor.lose_take()
                actor.refresh()
            case _:
                actor.publish(how)

    def die_too_often(self, actor: Actor, taken: set[int]) -> None:
        """Every actor that has the same orders dies."""
        for _ in range(MAX_TRIES - 1):
            self.gone.add(actor.die())
            self.reap()
            taken &= actor.take(2)
        self.gone.add(actor.die())
        self.reap()
        marks = self.broker.run(lambda client: client.hgetall(self.broker.keys.pub))
        for seq in taken:
            assert marks[b"%d" % seq].startswith(b"done:"), f"I11: seq {seq} may kill actors without end"

    def learner_fault(self, how: str) -> None:
        self.live(lambda learner: learner.train(how.removeprefix("crash").strip()))
        if self.learner is not None:
            self.crash()

    def commit_fault(self, how: str) -> None:
        self.commit(how)

    def poisoned_batch(self, letters: int, commit: bool) -> None:
        """A batch has killed the ranks too often; an operator has its groups trained, and they kill them again."""
        for letter in range(letters):
            if letter:
                self.requeue()
            self.gather()
            self.live(Learner.poison)
            if commit:
                self.commit()

    def read_reply_lost(self, count: int) -> None:
        self.live(Learner.issue)
        self.actors[0].take(1)
        self.actors[0].publish()
        traj = self.broker.keys.traj
        self.broker.group_read(lambda client: client.xreadgroup("learner", "learner", {traj: ">"}, count))

    def checkpoint_unreadable(self) -> None:
        """The newest one is damaged, and the learner has to start again."""
        newest, *others = self.storage.readable() or [""]
        if others:  # else the run ends, and says why
            self.learner = None
            self.storage.damage(newest)
            self.expected, self.kept = {}, False

    def take_over(self, meanwhile: list[str], then: str | None = None) -> None:
        """A new learner starts while the old one lives; the old one goes on until the new one has fenced, and may try
        one thing more."""
        self.start()
        old = self.learner
        assert old is not None
        new = self.load()
        acts: dict[str, Callable[[], object]] = {
            "train": old.train,
            "commit": old.checkpoint,
            "issue": old.issue,
            "read": old.read,
        }
        finished = self.storage.finished()
        with contextlib.suppress(FencedError):
            for act in meanwhile:
                acts[act]()
        assert self.storage.finished() == finished, "I8: a checkpoint was finished after a newer claim"
        self.expected = dict(old.reached) if self.kept else {}
        self.zombies.append(old)
        self.learner = new
        self.fence()
        if then is not None:
            self.zombie_acts(then)

    def zombie_acts(self, what: str) -> None:
        """The oldest one acts, until it learns that it was replaced."""
        if not self.zombies:
            return
        try:
            act_as_zombie(self.zombies[0], what)
        except BrokerChangedError:
            pass  # it has not met the broker yet
        except FencedError:
            self.zombies.pop(0)

    def broker_fault(self, how: str, crash: bool, first: str | None) -> None:
        """`first`: what a learner that was just replaced tries before others meet the broker again."""
        if first is not None:
            self.take_over([])
        if crash and self.learner is not None:
            self.crash()
        {"kill": self.site.kill, "roll back": self.site.roll_back, "lose": self.site.lose}[how]()
        if how != "kill":
            self.expected, self.kept = {}, False
        if first is not None:
            self.zombie_acts(first)

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
        batch, issued = learner.batch + 3, range(learner.port.view.cursor())
        for _ in range(60):
            self.reap()
            for actor in self.actors:
                actor.refresh()
            self.live(Learner.sweep)
            self.round()
            self.every_seq_once()
            if learner.batch >= batch and all(map(learner.ledger.known, issued)):
                self.commit()
                self.bytes_add_up()
                return
        raise AssertionError(f"I4: no progress\n{self.portrait()}")

    def portrait(self) -> str:
        """Everything that can explain a standstill."""
        assert self.learner is not None
        keys, run = self.broker.keys, self.broker.run
        lines = [f"learner {self.learner.incarnation}: {self.learner.ledger.state()}"]
        lines.append(f"trained {self.learner.weights.lineage}, held {sorted(self.learner.feeder._buffer._held)}")
        for name in ("cursor", "lwm", "ctl", "incarnation"):
            lines.append(f"{name}: {run(lambda c, name=name: c.get(getattr(keys, name)))}")
        for stream in (keys.work, keys.work_hi, keys.traj):
            entries = run(lambda c, stream=stream: c.xrange(stream))
            lines.append(f"{stream}: {[(e, f.get(b'seq'), f.get(b'kind')) for e, f in entries]}")
        lines.append(f"pub: {run(lambda c: c.hgetall(keys.pub))}")
        return "\n".join(lines)
