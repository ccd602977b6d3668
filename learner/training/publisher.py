"""Rank 0's care for published weights: which version is served, who has loaded it, and which files may go.

Knows manifests and actors' reports; not what weights are.
"""

import logging
import time
from collections.abc import Sequence

from isentrope.errors import StorageError
from isentrope.learner.intake.feeder import Feeder
from isentrope.learner.training.rank_group import RankGroup
from isentrope.learner.training.waiting import Wait
from isentrope.rollout.broker.reaper import SILENT_BEATS
from isentrope.rollout.broker.run_view import ActorStage, ActorState
from isentrope.rollout.wire.spec import RunSpec
from isentrope.rollout.wire.types import version_of
from isentrope.rollout.wire.weights import Manifest, prune

MAX_FAILURES = 3
"""Versions in a row that the disk may refuse."""

POLL_S = 0.05

_IN_USE = {ActorStage.SERVING, ActorStage.SYNCING, ActorStage.STALE}

logger = logging.getLogger(__name__)


class Publisher:
    """The versions of one learner."""

    def __init__(self, rank_group: RankGroup, spec: RunSpec, incarnation: int, keep: int) -> None:
        """`keep`: how many of its newest versions stay on the disk, beside those that actors still use."""
        self.incarnation = incarnation
        self._rank_group = rank_group
        self._spec = spec
        self._keep = keep
        self._written: list[Manifest] = []
        self._failures = 0

    @property
    def newest(self) -> Manifest:
        """The version that is served, or will be once actors have loaded it."""
        return self._written[-1]

    def write(self, batch: int) -> Manifest:
        """Write the present weights, trained on `batch` batches; nobody is told. StorageError if the disk refuses."""
        manifest = self._rank_group.publish(version_of(self.incarnation, batch))
        self._written.append(manifest)
        return manifest

    def publish(self, batch: int, feeder: Feeder, timeout_s: float, *, verify: bool) -> None:
        """Write the present weights, announce them, and issue the orders that they admit.

        Args:
            batch: batches they were trained on.
            feeder: announces.
            timeout_s: deadline of the slowest actor.
            verify: issue only when no actor serves anything else, and let no version be left out; otherwise, a version
                that the disk refuses is skipped, up to `MAX_FAILURES` in a row.
        """
        try:
            manifest = self.write(batch)
        except StorageError as error:
            self._failures += 1
            if verify or self._failures == MAX_FAILURES:
                raise
            logger.warning("version of batch %d is left out: %s", batch, error.what)
            return
        self._failures = 0
        feeder.announce(manifest, lambda: self._await_served(manifest, feeder, timeout_s) if verify else None)
        self._prune(feeder.actors())

    def _await_served(self, manifest: Manifest, feeder: Feeder, timeout_s: float) -> None:
        """Wait until every actor serves these very weights, or is gone."""
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
    """An actor that still starts, has failed, leaves or is silent serves nothing; the others must serve `manifest`."""
    served = (actor.version, actor.digest) == (manifest.version, manifest.digest)
    return actor.state in _IN_USE and actor.silent_s <= gone_s and not served


def _lateness(actor: ActorState, manifest: Manifest) -> str:
    what = "another digest" if actor.version == manifest.version else f"version {actor.version}"
    return f"actor {actor.id} ({actor.host}, {actor.state.value}) serves {what}"
