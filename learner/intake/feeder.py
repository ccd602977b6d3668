"""The feeder: issues orders, admits groups, and provides batches, so that every order is trained exactly once.

One thread of rank 0 talks to the broker; the training loop calls the methods below. `README.md` says what may be lost.
The rules for groups are in `buffer.py`.

An error of the thread ends it and is raised by the next call: a newer learner took over (`FencedError`), the broker was
unreachable for longer than its deadline, nothing but retired groups came (`retirement.py`), or a bug.
"""

import logging
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TypeVar

from isentrope.errors import BrokerChangedError
from isentrope.learner.intake.buffer import Buffer, ReadyBatch
from isentrope.learner.intake.clocks import Clocks
from isentrope.learner.intake.intake_facts import CommitFacts, FeederOptions, FeederStatus
from isentrope.learner.intake.ledger import Ledger
from isentrope.rollout.broker.learner_port import Entry, LearnerPort
from isentrope.rollout.broker.run_view import ActorState
from isentrope.rollout.broker.waiting import why_waiting
from isentrope.rollout.wire.control import Control, Mode
from isentrope.rollout.wire.weights import Manifest

T = TypeVar("T")

ADMIT_COUNT = 64
MAX_UNREAD = 1024
"""Entries that are read at one stretch while a run goes on; of more, each round reads some."""
PENDING_EVERY_S = 3.0
"""Interval of the search for entries whose reply was lost."""

logger = logging.getLogger(__name__)


class Feeder:
    """The intake of one learner. One thread may call the methods, beside the feeder's own; a third one `announce`."""

    def __init__(self, port: LearnerPort, ledger: Ledger, options: FeederOptions) -> None:
        """Prepare; `port` was fenced with the low watermark and cursor of `ledger`, which is a checkpoint's or new."""
        self._port = port
        self._options = options
        self._ledger = ledger
        self._buffer = Buffer(ledger, port.spec, port.incarnation, options.rules, options.mode)
        self._changed = threading.Condition()
        """Held by both threads whenever they read or write ledger, buffer, the time of the last progress or a field
        below. Not held while groups are waited for (`admit`), nor in `call`, unless its caller holds it on purpose."""
        self._published = 0
        self._durable_lwm = ledger.lwm
        self._failure: Exception | None = None
        self._held_back: int | None = None  # least lost seq whose turn has not come; None: none is known of
        self._lost = False  # the broker changed, and this learner has not fenced it again yet
        self._calls = 0  # of the training loop and of the thread that publishes; they must end before that
        self._idle_s = 0.0
        self._clocks = Clocks()
        self._reported: dict[str, int] = {}  # the thread's own, and needs no lock
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="feeder", daemon=True)

    # --- start and stop

    def start(self, manifest: Manifest) -> FeederStatus:
        """Announce the first weights, read back the broker's entries, queue stored plans, start the thread; return the
        progress before anything new comes in."""
        self._buffer.newest_version = manifest.version
        self._published = manifest.batch
        with self._changed:
            while True:
                try:
                    if self._lost:
                        self._refence()
                    self._port.announce(manifest)
                    self._collect()
                    break
                except BrokerChangedError:
                    self._lost = True
            self._lost = False
        status = self.status()
        self._thread.start()
        return status

    def stop(self) -> None:
        """End the thread after its present step; harmless when repeated."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()

    # --- batches

    def next_batch(self, timeout_s: float) -> ReadyBatch | None:
        """Return the next batch, its plan stored; None: it is not complete after `timeout_s` seconds.

        Report it with `trained`, or abandon it with `give_up`, before asking again.
        """
        began = time.monotonic()
        with self._changed:
            try:
                while True:
                    self._check()
                    if (batch := self._take()) is not None:
                        return batch
                    left = began + timeout_s - time.monotonic()
                    if left <= 0:
                        return None
                    self._changed.wait(left)
            finally:
                self._idle_s += time.monotonic() - began

    def trained(self) -> None:
        """Record that the current batch was trained. After the last batch, missing groups are retired as surplus."""
        with self._changed:
            self._check()
            self._buffer.trained()
            if self._ledger.batches == self._options.batches:
                self._buffer.retire_rest()
            self._buffer.retire_unfit()
            self._clocks.progress()

    def give_up(self, seqs: Collection[int], reason: str) -> None:
        """Abandon the current batch: retire its groups `seqs` with `reason`; the others are free again."""
        with self._changed:
            self._buffer.put_back()
            self._buffer.retire(seqs, reason)
            self._ledger.replaced = 0  # as of a learner that repeats the batch, and gives it up again

    def requeue(self, wanted: Mapping[str, int]) -> bool:
        """Order groups again that were retired as poison, by the name of the requeue, each name once; return False if
        all were."""
        with self._changed:
            new = [seq for name, seq in sorted(wanted.items()) if self._ledger.requeue(seq, name)]
            if new:
                self.call(lambda _: self._reconcile())
        return bool(new)

    # --- weights and control

    def announce(self, manifest: Manifest, before_issuing: Callable[[], None] = lambda: None) -> None:
        """Make `manifest` the newest weights, and issue the orders that this admits once `before_issuing` returns."""
        with self._changed:
            self._buffer.newest_version = manifest.version  # first: an actor may publish with it at once
        self.call(lambda port: port.announce(manifest))
        before_issuing()
        with self._changed:
            self._published = manifest.batch
            self.call(lambda _: self._issue())

    def set_control(self, control: Control) -> None:
        """Write the control state, and choose batches by its mode from now on."""
        with self._changed:  # nothing is issued in between
            self.call(lambda port: port.set_control(control))
            self._buffer.switch(control.mode)
            self._buffer.retire_unfit()

    def call(self, operation: Callable[[LearnerPort], T]) -> T:
        """Return what `operation` returns; it is repeated after the broker came back and was fenced again."""
        while True:
            with self._changed:
                while self._lost:
                    self._check()
                    self._changed.wait()
                self._calls += 1
            try:
                return operation(self._port)
            except BrokerChangedError:
                with self._changed:
                    self._lost = True
            finally:
                with self._changed:
                    self._calls -= 1
                    self._changed.notify_all()

    def control(self) -> Control:
        """Return the control state, with what an operator asks for."""
        return self.call(LearnerPort.control)

    def stop_asked(self) -> bool:
        """Return True if an operator wants the run to end."""
        return self.control().requested_stop

    def actors(self) -> list[ActorState]:
        """Return all actors, with the seconds since each one's record changed."""
        return self.call(LearnerPort.actors)

    def counters(self) -> dict[str, int]:
        """Return the counters of the run."""
        return self.call(LearnerPort.counters)

    # --- checkpoints

    def is_pressed(self) -> bool:
        """Return True if a checkpoint is due for the broker's sake."""
        return self.call(LearnerPort.is_pressed)

    def commit_facts(self) -> CommitFacts:
        """Return the facts for a checkpoint of the present state; there must be no current batch."""
        with self._changed:
            assert self._buffer.in_hand is None
            entries, plans = self._buffer.uncommitted()
            return CommitFacts(self._ledger.state(), self._ledger.lwm, entries, plans)

    def commit(self, facts: CommitFacts, ckpt: str) -> None:
        """Record that the checkpoint of `facts` is durable; `ckpt` describes it, for operators and the next learner."""
        with self._changed:
            self._durable_lwm = facts.lwm
        self.call(lambda port: port.commit(entries=facts.entries, lwm=facts.lwm, ckpt=ckpt, plans=facts.plans))
        with self._changed:
            self._buffer.committed(facts.entries, facts.plans)

    def discard(self, entries: Sequence[str]) -> None:
        """Delete entries of retired groups that are kept elsewhere."""
        with self._changed:
            self._buffer.committed(entries, ())
        self.call(lambda port: port.discard(entries))

    def shed(self) -> None:
        """Delete the entries of retired groups that no checkpoint covers yet, to free the broker: a learner that starts
        from the last one has these groups made again."""
        with self._changed:
            entries = self._buffer.shed()
        if entries:
            self.call(lambda port: port.discard(entries))

    # --- status

    def status(self) -> FeederStatus:
        """Return the progress of the run."""
        with self._changed:
            return FeederStatus(
                ready=self._buffer.ready,
                issued=self._buffer.cursor,
                trained=self._ledger.trained,
                retired=dict(self._ledger.reasons),
                failed=self._buffer.failed.copy(),
                retired_whole=self._buffer.retired_whole.copy(),
                idle_s=self._idle_s,
                quiet_s=self._clocks.quiet_s(),
                replaced=self._buffer.replaced,
            )

    def why_waiting(self) -> str:
        """Return one line that names what is waited for."""
        return self.call(lambda port: why_waiting(port.view, port.spec))

    # --- the thread

    def _serve(self) -> None:
        try:
            while not self._stopping.is_set():
                try:
                    self._meet_again()
                    self._round()
                except BrokerChangedError as error:
                    logger.warning("%s; reading everything again", error.what)
                    with self._changed:
                        self._lost = True
        except Exception as error:
            with self._changed:
                self._failure = error
                self._changed.notify_all()

    def _round(self) -> None:
        with self._changed:
            self._issue()
        entries = self._port.admit(ADMIT_COUNT, self._options.admit_s)
        if self._clocks.due("pending", PENDING_EVERY_S):
            entries += self._port.pending()
        with self._changed:
            self._take_in(entries)
            self._buffer.retire_unfit()
            self._make_again()
            if (error := self._buffer.retirements.error()) is not None:
                raise error
            self._changed.notify_all()
            if self._clocks.stands_still(self._ledger.lwm, self._options.reconcile_after_s):
                if self._port.view.queues()["unread"] <= MAX_UNREAD:
                    self._read_all()
                self._reconcile()
        if self._clocks.due("reap", self._port.spec.heartbeat_s):
            with self._changed:
                quarantined, told = [*self._buffer.quarantine.reasons], self._buffer.quarantine.told()
            self._port.reap(quarantined)
            self._port.heartbeat(self._options.state().model_copy(update={"quarantined": told}))
        self._report()

    def _meet_again(self) -> None:
        """Fence a broker that came back, maybe with an older state: in memory only the ledger stays valid."""
        with self._changed:
            if not self._lost:
                return
            while self._calls:  # else it might write to the new broker what the port repeats there
                self._changed.wait()
            self._refence()
            self._collect()
            self._reported = {}
            self._lost = False
            self._changed.notify_all()

    # --- steps, all with the lock held

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure
        assert self._thread.is_alive(), "the feeder was stopped"

    def _take(self) -> ReadyBatch | None:
        """Return the next batch, its plan stored; None: not now."""
        if self._lost or (batch := self._buffer.take()) is None:
            return None
        if not batch.replayed:
            try:
                self._port.plan(batch.record.batch, batch.record.encode())
            except BrokerChangedError:
                self._buffer.put_back()
                self._lost = True
                return None
        return batch

    def _issue(self) -> None:
        retired = self._ledger.retired
        size = self._port.spec.prompts_per_batch
        self._buffer.cursor = self._port.issue(
            trained_batches=self._published,
            retired=retired,
            limit=self._options.batches * size + retired,
            needed=(self._ledger.batches + 1) * size + retired,
        )
        if self._held_back is not None and self._held_back < self._bound():
            self._reconcile()

    def _take_in(self, entries: list[Entry]) -> None:
        if any(entry.seq >= self._buffer.cursor for entry in entries):  # issued by a call whose reply was lost
            self._buffer.cursor = max(self._buffer.cursor, self._port.view.cursor())
        self._port.drop([entry for entry in entries if not self._buffer.add(entry)])
        if self._buffer.quarantine.take_turned_away():
            self._reconcile()
        elif entries:
            self._clocks.progress()

    def _collect(self) -> None:
        """Read everything the broker holds, queue stored plans, and re-issue lost seqs."""
        self._buffer.clear()
        self._buffer.cursor = max(self._buffer.cursor, self._port.view.cursor())
        self._read_all()
        if replays := self._buffer.queue_replays(self._port.plans()):
            logger.info("%d stored plans fit the checkpoint and are trained again", replays)
        self._buffer.retire_unfit()
        self._port.discard(self._buffer.outdated)
        self._buffer.outdated.clear()
        # A tombstone stays in the broker until a checkpoint covers it: those of many batches may be read at once here,
        # before any of these batches is trained again.
        self._buffer.retirements.restart()
        self._reconcile()

    def _make_again(self) -> None:
        """Delete the groups that other weights than the present ones have made, and order them again."""
        if outdated := self._buffer.outdated:
            self._port.discard(outdated)
            self._reconcile()
            self._buffer.outdated.clear()

    def _reconcile(self) -> None:
        """Order lost groups again; on-policy those of later batches only when these are admitted, as at first: until
        then other weights would generate them."""
        known, bound = self._buffer.known_from(self._durable_lwm), self._bound()
        self._held_back = bound if bound < self._buffer.cursor else None
        again = self._port.reconcile(known, requeued=self._ledger.requeued - known, held_from=self._held_back)
        if again:
            logger.warning("%d groups were not here any more, or of other weights, and are made again", again)

    def _bound(self) -> int:
        """Return the seq that the newest version does not admit any more, as ISSUE computes it."""
        if self._buffer.mode is Mode.ASYNC:
            return self._buffer.cursor
        return (self._published + 1) * self._port.spec.prompts_per_batch + self._ledger.retired

    def _read_all(self) -> None:
        """Read every entry that is not here; of those that do not come, delete what would pass them for published."""
        sized = self._port.sized()  # before all that is read: what is published meanwhile may not come yet
        left = self._port.view.queues()["uncommitted"]  # what comes after these is for later rounds: it may never end
        self._take_in(self._port.pending())
        while left > 0 and (entries := self._port.admit(ADMIT_COUNT, 0.0)):
            self._take_in(entries)
            left -= len(entries)
        self._port.discard(sorted(sized - self._buffer.entries))  # they are gone, and their bytes would stay

    def _refence(self) -> None:
        claim = self._options.newest_claim()
        self._port.refence(newest_claim=claim, lwm=self._durable_lwm, cursor=self._buffer.cursor)

    def _report(self) -> None:
        """Write the learner's own counters, for those who watch the run."""
        with self._changed:
            counts = {"trained": self._ledger.trained, "retired": self._ledger.retired}
            counts |= {f"retired:{reason}": count for reason, count in self._ledger.reasons.items()}
            counts |= {f"failed:{kind}": each.total() for kind, each in self._buffer.failed.counts.items()}
        if counts != self._reported:
            self._port.report(counts)
            self._reported = counts
