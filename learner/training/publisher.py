"""Published weights on rank 0: publishes versions, waits for actors to load them, deletes unused ones."""

import logging
import time
from collections.abc import Sequence

from isentrope.errors import StorageError
from isentrope.learner.intake.feeder import Feeder
from isentrope.learner.training import canary
from isentrope.learner.training.rank_group import RankGroup
from isentrope.learner.training.waiting import Wait
from isentrope.rollout.broker.reaper import SILENT_BEATS
from isentrope.rollout.broker.run_view import ActorStage, ActorState
from isentrope.rollout.wire.spec import RunSpec
from isentrope.rollout.wire.types import version_of
from isentrope.rollout.wire.weights import Manifest, prune

MAX_FAILURES = 3
"""Failed writes in a row that end the run."""

POLL_S = 0.05

_IN_USE = {ActorStage.SERVING, ActorStage.SYNCING, ActorStage.STALE}

logger = logging.getLogger(__name__)


class Publisher:
    """The versions of one learner."""

    def __init__(self, rank_group: RankGroup, spec: RunSpec, incarnation: int, keep: int) -> None:
        """Keep the newest `keep` versions on the disk, besides those that actors still use."""
        self.incarnation = incarnation
        self._rank_group = rank_group
        self._spec = spec
        self._keep = keep
        self.canary = canary.first_tokens(spec.vocab_size)
        """Tokens whose log-probabilities go with the next version: those of the newest batch, once there is one."""
        self._written: list[Manifest] = []
        self._failures = 0

    @property
    def newest(self) -> Manifest:
        """The version that is served, or will be once actors have loaded it."""
        return self._written[-1]

    def write(self, batch: int) -> Manifest:
        """Write the present weights, trained on `batch` batches, without announcing them.

        Raises:
            StorageError: they cannot be written.
        """
        manifest = self._rank_group.publish(version_of(self.incarnation, batch), self.canary)
        self._written.append(manifest)
        return manifest

    def publish(self, batch: int, feeder: Feeder, timeout_s: float, *, verify: bool) -> None:
        """Write the present weights, announce them, and issue the orders that they admit.

        Args:
            batch: batches they were trained on.
            feeder: announces the version.
            timeout_s: deadline of the slowest actor.
            verify: issue only when no actor serves another version, and skip no version; otherwise, a version that
                cannot be written is skipped, up to `MAX_FAILURES` in a row.
        """
        try:
            manifest = self.write(batch)
        except StorageError as error:
            self._failures += 1
            if verify or self._failures == MAX_FAILURES:
                raise
            logger.warning("version of batch %d is skipped: %s", batch, error.what)
            return
        self._failures = 0
        feeder.announce(manifest, lambda: self._await_served(manifest, feeder, timeout_s) if verify else None)
        self._prune(feeder.actors())

    def _await_served(self, manifest: Manifest, feeder: Feeder, timeout_s: float) -> None:
        """Wait until every actor serves exactly these weights, or is gone."""
        late: list[str] = []
        wait = Wait(self._rank_group, timeout_s, lambda: ", ".join(late), f"version {manifest.version} at all actors")
        gone_s = SILENT_BEATS * self._spec.heartbeat_s
        while late := [_lateness(actor, manifest) for actor in feeder.actors() if _is_late(actor, manifest, gone_s)]:
            wait.tick()
            time.sleep(POLL_S)

    def _prune(self, actors: Sequence[ActorState]) -> None:
        keep = {manifest.version for manifest in self._written[-self._keep :]}
        prune(self._spec.output_dir, keep | {actor.version for actor in actors if actor.state is not ActorStage.GONE})


def _is_late(actor: ActorState, manifest: Manifest, gone_s: float) -> bool:
    """Return True if an actor serves other weights than `manifest`; one that starts, failed or leaves serves none."""
    served = (actor.version, actor.digest) == (manifest.version, manifest.digest)
    return actor.state in _IN_USE and actor.silent_s <= gone_s and not served


def _lateness(actor: ActorState, manifest: Manifest) -> str:
    what = "another digest" if actor.version == manifest.version else f"version {actor.version}"
    return f"actor {actor.id} ({actor.host}, {actor.state.value}) serves {what}"
