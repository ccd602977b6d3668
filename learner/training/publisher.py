"""Published weights on rank 0: begins versions, announces them when they are written, waits for actors to load them,
deletes unused ones.

A version is written while training goes on; the thread that wrote it announces it. The next one, an evaluation and the
end of the run wait for that first.
"""

import contextlib
import logging
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, wait
from pathlib import Path
from typing import TypeVar

from isentrope.errors import StorageError, UnreachableError
from isentrope.learner.intake.feeder import Feeder
from isentrope.learner.training import canary
from isentrope.learner.training.fault_points import crash_point
from isentrope.learner.training.rank_group import RankGroup
from isentrope.learner.training.waiting import SLICE_S, Wait
from isentrope.long_waits import waiting_for
from isentrope.rollout.broker.reaper import SILENT_BEATS
from isentrope.rollout.broker.run_view import ActorStage, ActorState
from isentrope.rollout.depot import versions
from isentrope.rollout.depot.interface import is_read_only, open_depot
from isentrope.rollout.wire.spec import RunSpec
from isentrope.rollout.wire.types import version_of
from isentrope.rollout.wire.weights import Manifest, prune

MAX_FAILURES = 3
"""Failed writes in a row that end the run."""

POLL_S = 0.05

_IN_USE = {ActorStage.SERVING, ActorStage.SYNCING, ActorStage.STALE}

R = TypeVar("R")

logger = logging.getLogger(__name__)


class Publisher:
    """The versions of one learner."""

    def __init__(self, rank_group: RankGroup, spec: RunSpec, incarnation: int, keep: int, timeout_s: float) -> None:
        """Keep the newest `keep` versions on the disk, besides those that actors still use.

        timeout_s: deadline of a version's files, and of the slowest actor.
        """
        self.incarnation = incarnation
        self._rank_group = rank_group
        self._spec = spec
        self._timeout_s = timeout_s
        self.canary = canary.first_tokens(spec.vocab_size)
        """Tokens whose log-probabilities go with the next version: those of the newest batch, once there is one."""
        self._written: deque[Manifest] = deque(maxlen=keep)  # a manifest of a large model takes 50 kB
        self._announcing: tuple[int, Future[None]] | None = None
        """Batch of the version that is being written, and when it is announced."""
        self._failures = 0
        own = f"file://{Path(spec.output_dir).absolute()}"
        self._copies = [open_depot(url) for url in spec.depots if url != own and not is_read_only(url)]

    @property
    def newest(self) -> Manifest:
        """The newest version that was announced: it is served, or will be once actors have loaded it."""
        return self._written[-1]

    def write(self, batch: int) -> Manifest:
        """Write the present weights, trained on `batch` batches, into the run's folder and every other depot, without
        announcing them.

        Raises:
            StorageError: they cannot be written.
        """
        manifest = self._finished(self._begin(batch))
        assert manifest is not None, "rank 0 makes the manifest"
        self._copy(manifest)
        self._written.append(manifest)
        return manifest

    def publish(self, batch: int, feeder: Feeder, *, verify: bool) -> None:
        """Write the present weights, trained on `batch` batches, then announce them and issue the orders that they
        admit. Does nothing if that was begun before.

        verify: return only then, issue only when no actor serves another version, and skip no version. Otherwise a
        version that cannot be written is skipped, up to `MAX_FAILURES` in a row.

        Raises:
            StopAsked: the run is to end while the actors are waited for: the weights are announced, nothing is issued.
        """
        if verify or not self._covers(batch):
            self.settle(feeder)
        if self._covers(batch):
            return
        if verify:
            manifest = self.write(batch)
            feeder.announce(manifest, lambda: self._await_served(manifest, feeder))
            self._prune(feeder.actors())
        else:
            self._announcing = batch, self._announced(self._begin(batch), batch, feeder)

    def settle(self, feeder: Feeder) -> None:
        """Wait until the version that is being written is announced, or skip it.

        Raises:
            StorageError: the third version in a row that cannot be written.
        """
        if self._announcing is None:
            return
        (batch, announced), self._announcing = self._announcing, None
        try:
            self._finished(announced)
        except StorageError as error:
            self._failures += 1
            if self._failures == MAX_FAILURES:
                raise
            logger.warning("version of batch %d is skipped: %s", batch, error.what)
            return
        self._failures = 0
        self._prune(feeder.actors())

    def drain(self) -> None:
        """Wait, whatever becomes of it, for the version that is being written."""
        if self._announcing is not None:
            with waiting_for(f"the version of batch {self._announcing[0]} to be written by all ranks"):
                wait([self._announcing[1]], self._timeout_s)

    def _covers(self, batch: int) -> bool:
        """Return True if the weights after `batch` batches are announced, or will be."""
        return self.newest.batch == batch or (self._announcing is not None and self._announcing[0] == batch)

    def _begin(self, batch: int) -> "Future[Manifest | None]":
        return self._rank_group.publish(version_of(self.incarnation, batch), self.canary)

    def _finished(self, future: "Future[R]") -> R:
        """Return the result of the threads of all ranks, which write a version; idle orders meanwhile."""
        late = Wait(self._rank_group, self._timeout_s, lambda: "the ranks write it", "a version's files")
        while not wait([future], SLICE_S).done:
            late.tick()
        return future.result()

    def _announced(self, written: "Future[Manifest | None]", batch: int, feeder: Feeder) -> "Future[None]":
        """Let the thread that writes a version announce it; return when it has, with the error that it met."""
        announced: Future[None] = Future()

        def announce(written: "Future[Manifest | None]") -> None:
            try:
                manifest = written.result()
                assert manifest is not None, "rank 0 makes the manifest"
                self._copy(manifest)
                crash_point("publish.before_announcement", batch)
                feeder.announce(manifest)
                self._written.append(manifest)
                announced.set_result(None)
            except BaseException as error:
                announced.set_exception(error)

        written.add_done_callback(announce)
        return announced

    def _await_served(self, manifest: Manifest, feeder: Feeder) -> None:
        """Wait until every actor serves exactly these weights, or is gone."""
        late: list[str] = []
        what = f"version {manifest.version} at all actors"
        wait = Wait(self._rank_group, self._timeout_s, lambda: ", ".join(late), what, feeder.stop_asked)
        gone_s = SILENT_BEATS * self._spec.heartbeat_s
        while late := [_lateness(actor, manifest) for actor in feeder.actors() if _is_late(actor, manifest, gone_s)]:
            wait.tick()
            time.sleep(POLL_S)

    def _copy(self, manifest: Manifest) -> None:
        """Copy a version into every depot but the run's folder; StorageError if one cannot be written or reached."""
        try:
            for depot in self._copies:
                versions.publish(depot, manifest)
        except UnreachableError as error:  # not the broker, whose errors end the learner
            raise StorageError(error.what, where=error.where, fix=error.fix) from error

    def _prune(self, actors: Sequence[ActorState]) -> None:
        live = [actor for actor in actors if actor.state is not ActorStage.GONE]
        keep = {manifest.version for manifest in self._written}
        keep |= {version for actor in live for version in (actor.version, actor.fetching)}
        prune(self._spec.output_dir, keep)
        for depot in self._copies:
            with contextlib.suppress(UnreachableError, StorageError):  # they are deleted after a later batch
                versions.withdraw(depot, keep)


def _is_late(actor: ActorState, manifest: Manifest, gone_s: float) -> bool:
    """Return True if an actor serves other weights than `manifest`; one that starts, failed or leaves serves none."""
    served = (actor.version, actor.digest) == (manifest.version, manifest.digest)
    return actor.state in _IN_USE and actor.silent_s <= gone_s and not served


def _lateness(actor: ActorState, manifest: Manifest) -> str:
    what = "another digest" if actor.version == manifest.version else f"version {actor.version}"
    return f"actor {actor.id} ({actor.host}, {actor.state.value}) serves {what}"
