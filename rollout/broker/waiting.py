"""One line that names what a run waits for: for status, the progress line and the error of a stalled run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from isentrope.rollout.broker.learner_state import LearnerState
from isentrope.rollout.broker.reaper import SILENT_BEATS
from isentrope.rollout.broker.run_view import ActorStage, ActorState, RunView
from isentrope.rollout.wire.control import Control, RunState
from isentrope.rollout.wire.spec import RunSpec

FULL = 0.95
"""Fraction of the server's memory limit above which it counts as full: a large record is refused before the limit."""

ENGINE_SILENT_S = 5.0
"""Seconds without an answer after which an engine is named: one answers between two of its steps."""

DOING = {
    ActorStage.JOINING: "is starting its engine",
    ActorStage.SYNCING: "is getting its weights",
    ActorStage.SERVING: "is generating",
    ActorStage.STALE: "has weights that are too old",
    ActorStage.DRAINING: "is leaving",
    ActorStage.DIRTY: "failed to load weights",
    ActorStage.GONE: "is gone",
}
"""Words for what an actor of each stage does, wherever somebody waits for it."""


@dataclass(frozen=True, slots=True)
class BrokerSnapshot:
    """State of a run at one moment; see the methods of `RunView`."""

    control: Control | None
    announced: bool
    cursor: int
    actors: Sequence[ActorState]
    counters: Mapping[str, int]
    queues: Mapping[str, int]
    used_bytes: int
    limit_bytes: int
    learner: LearnerState | None = None
    """None: it has sent no heartbeat."""

    @property
    def under_way(self) -> int:
        """Orders that are waiting or leased."""
        return self.queues["waiting"] + self.queues["leased"]

    @property
    def consumed(self) -> int:
        """Orders that the learner reports as trained or retired."""
        return self.counters.get("trained", 0) + self.counters.get("retired", 0)

    @property
    def ready(self) -> int:
        """Published groups that are not trained yet."""
        return max(0, self.cursor - self.consumed - self.under_way)


def why_waiting(view: RunView, spec: RunSpec) -> str:
    """Return what the run waits for now. Use one view for all calls: it measures how long actors are silent."""
    used_bytes, limit_bytes = view.memory()
    return explain(
        BrokerSnapshot(
            control=view.control(),
            announced=view.weights() is not None,
            cursor=view.cursor(),
            actors=view.actors(),
            counters=view.counters(),
            queues=view.queues(),
            used_bytes=used_bytes,
            limit_bytes=limit_bytes,
            learner=view.learner(),
        ),
        spec,
    )


def explain(snapshot: BrokerSnapshot, spec: RunSpec) -> str:
    """Return the line for `snapshot`."""
    if snapshot.control is None:
        return "no learner has opened the run"
    if snapshot.control.state is not RunState.RUN:
        return f"run is ending: {snapshot.under_way} orders under way"
    if silent := _silent_learner(snapshot.learner, spec):
        return silent
    if not snapshot.announced:
        return "learner has announced no weights"
    batch = snapshot.counters.get("trained", 0) // spec.prompts_per_batch + 1
    if snapshot.ready >= spec.prompts_per_batch:
        closed = "; admission closed, actors wait" if snapshot.under_way == 0 else ""
        line = f"learner is training batch {batch}: {snapshot.ready} groups ready{closed}"
    else:
        line = f"batch {batch}: {snapshot.ready} of {spec.prompts_per_batch} groups; {_why_incomplete(snapshot, spec)}"
    prompts = snapshot.queues["eval"]
    return f"{line}; {prompts} held-out prompts to answer" if prompts else line


def _silent_learner(learner: LearnerState | None, spec: RunSpec) -> str:
    """Return the line about a learner, or ranks of one, that give no sign of life; "" if all do."""
    limit_s = (SILENT_BEATS - 1) * spec.heartbeat_s
    if learner is None:
        return ""
    if learner.silent_s > limit_s:
        place = f" ({learner.place})" if learner.place else ""
        return f"learner{place} is silent for {learner.silent_s:.0f} s; it was at: {learner.doing}"
    silent = [rank for rank in learner.ranks if rank.silent_s > limit_s]
    ranks = ", ".join(f"rank {rank.rank} ({rank.place}) is silent for {rank.silent_s:.0f} s" for rank in silent)
    return f"{ranks}; the others are at: {learner.doing}, for {learner.doing_s:.0f} s" if ranks else ""


def _why_incomplete(snapshot: BrokerSnapshot, spec: RunSpec) -> str:
    """Return why the next batch lacks groups."""
    full = _no_room(snapshot, spec)
    if full:
        return full
    alive = [actor for actor in snapshot.actors if actor.state is not ActorStage.GONE]
    if not alive:
        gone = ", ".join(f"{actor.id} is gone" for actor in snapshot.actors)
        return f"no actor has joined{' again: ' + gone if gone else ''}"
    silent = [actor for actor in alive if actor.silent_s > (SILENT_BEATS - 1) * spec.heartbeat_s]
    if silent:
        return ", ".join(f"{actor.id} is silent for {actor.silent_s:.0f} s" for actor in silent)
    stuck = [actor for actor in alive if actor.engine_silent_s > ENGINE_SILENT_S]
    if stuck:
        return ", ".join(f"the engine of {actor.id} is silent for {actor.engine_silent_s:.0f} s" for actor in stuck)
    if not any(actor.state is ActorStage.SERVING for actor in alive):
        return ", ".join(describe(actor) for actor in alive)
    if snapshot.under_way == 0:
        return "learner has issued no orders"
    return f"generating: {snapshot.queues['leased']} orders leased, {snapshot.queues['waiting']} waiting"


def _no_room(snapshot: BrokerSnapshot, spec: RunSpec) -> str:
    uncommitted = f"{snapshot.queues['uncommitted']} groups un-committed"
    if snapshot.limit_bytes and snapshot.used_bytes > FULL * snapshot.limit_bytes:
        return f"broker full: {snapshot.used_bytes / 1e6:.1f} of {snapshot.limit_bytes / 1e6:.1f} MB, {uncommitted}"
    held = snapshot.counters.get("bytes", 0)
    if held > spec.max_bytes and snapshot.under_way == 0:
        budget = f"{held / 1e6:.1f} of {spec.max_bytes / 1e6:.1f} MB"
        return f"byte budget used up: {budget}, {uncommitted} until the next checkpoint"
    return ""


def describe(actor: ActorState) -> str:
    """Return what an actor does instead of generating, or that it generates, with its last error."""
    error = f" ({actor.last_error})" if actor.last_error else ""
    return f"actor {actor.id} {DOING[actor.state]}{error}"
