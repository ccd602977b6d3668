"""The rollout actors of one command: placed, watched, replaced when they die.

Each wanted actor has a slot: wanted, placing (no node has room yet), booting (its engine starts), serving, and leaving
if fewer are wanted. A replacement is always a new actor, under a new id. A run that is served goes on, whatever becomes
of single actors.
"""

import dataclasses
import time
from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from isentrope.actors.config import ActorsConfig
from isentrope.errors import IsentropeError, UnreachableError
from isentrope.launch.actor_process import FATAL
from isentrope.launch.placement import Avoided, Bundle, Deaths, Node, crowded, selectors, waits_for_room
from isentrope.launch.ray_ground import End
from isentrope.launch.scaling import Seat, next_to_leave
from isentrope.learner.placement_record import PlacedRecord, PlacementRecord
from isentrope.rollout.broker.reaper import SILENT_BEATS
from isentrope.rollout.broker.run_view import ActorStage, ActorState, new_boot
from isentrope.rollout.broker.waiting import describe

if TYPE_CHECKING:
    from isentrope.actors.worker import ActorOptions

MAX_FAILURES = 5
"""Deaths in a row, without an actor having served in between, after which a run that nobody serves ends."""

MAX_PAUSE_S = 60.0
"""Longest wait before an actor is started again."""

LEAVE_LOOK_S = 0.1

LEAVE_EXTRA_S = 5.0
"""Time an actor may take to leave beyond the time to finish its work."""

WISH_S = 5.0
"""Time after which an actor without room gives up one wish about its node."""

UP = {ActorStage.SYNCING, ActorStage.SERVING, ActorStage.STALE, ActorStage.DIRTY}
"""Stages of an actor whose engine runs."""


@dataclasses.dataclass(frozen=True, slots=True)
class ActorPlan:
    """Settings that all actors of a command share."""

    options: "ActorOptions"
    """Options of each actor, but for the id."""
    config: ActorsConfig
    bundle: Bundle
    labels: Mapping[str, str]
    """Labels of the nodes on which actors may be."""
    log_folder: Path


class Running(Protocol):
    """An actor that was started; `ray_ground.PlacedActor`."""

    def node(self) -> str:
        """Return the id of its node; empty: it waits for room."""
        ...

    def has_ended(self) -> bool:
        """Return True if it has ended."""
        ...

    def end(self) -> End:
        """Return how it has ended."""
        ...

    def remove(self) -> None:
        """End it at once."""


class Ground(Protocol):
    """Nodes with room for actors; `ray_ground.RayGround` is Ray's."""

    def start(self, options: "ActorOptions", log: Path, selector: Mapping[str, str]) -> Running:
        """Start an actor on a node that `selector` allows, once one has room."""
        ...

    def nodes(self) -> list[Node]:
        """Return the live nodes."""
        ...

    def taken(self) -> set[str]:
        """Return the nodes with other work than this command's actors."""
        ...

    def free(self) -> float:
        """Return the free units of what is scarce for an actor."""
        ...


class Phase(StrEnum):
    """State of a slot."""

    WANTED = "wanted"
    PLACING = "placing"
    BOOTING = "booting"
    SERVING = "serving"
    LEAVING = "leaving"


@dataclasses.dataclass(slots=True)
class _Slot:
    """One wanted actor: the present actor, or the time when the next one may start."""

    phase: Phase = Phase.WANTED
    name: str = ""
    boot: str = ""
    """Id of its process in the broker."""
    running: Running | None = None
    since: float = 0.0
    """Time at which the phase began."""
    node: str = ""
    wish: int = 0
    """Number of wishes about the node that were given up."""
    selector: dict[str, str] = dataclasses.field(default_factory=dict)
    failures: int = 0
    retry_at: float = 0.0


class Actors:
    """The actors of one command. Not thread-safe."""

    def __init__(self, plan: ActorPlan, last_number: int, ground: Ground, deaths: Deaths) -> None:
        """Start no actor yet; ids continue from `last_number`, the number of the run's newest actor. `deaths` are also
        those of the ranks."""
        self._plan = plan
        self._ground = ground
        self._number = last_number
        self._slots = [_Slot() for _ in range(plan.config.count)]
        self._deaths = deaths
        self._up_at = time.monotonic()
        self._guests_serve = False
        self._hosts: dict[str, str] = {}
        self.ended: list[str] = []
        """Ids of the processes that have ended, whose orders others may have. Whoever revokes them deletes the id."""

    @property
    def wanted(self) -> int:
        """Actors that are kept up."""
        return sum(slot.phase is not Phase.LEAVING for slot in self._slots)

    def resize(self, wanted: int, states: Sequence[ActorState]) -> list[str]:
        """Take one step towards another number of actors; return the ids, in the broker, of one that is to leave.

        Whoever calls this asks it to; it is ended only if it has not left long after the time it was given.
        """
        if self.wanted < wanted:
            self._slots.append(_Slot())
        if self.wanted <= wanted:
            return []
        leases = {state.id: state.leases for state in states}
        seats = {
            Seat(int(slot.name[1:] or 0), slot.phase is Phase.SERVING, leases.get(slot.name, 0)): slot
            for slot in self._slots
            if slot.phase is not Phase.LEAVING
        }
        slot = seats[next_to_leave(seats)]
        if slot.phase in (Phase.WANTED, Phase.PLACING):
            if slot.running is not None:
                slot.running.remove()
            self._slots.remove(slot)
            return []
        slot.phase, slot.since = Phase.LEAVING, time.monotonic()
        present = [state.id for state in states if state.state is not ActorStage.GONE]
        return [name for name in present if name.partition(".")[0] == slot.name] or [slot.name]

    def tend(self, states: Sequence[ActorState]) -> Iterator[str]:
        """Start missing actors, clean up dead ones; yield one event line each. `states`: the broker's records.

        Raises:
            IsentropeError: an actor ended with an error that every other would have too.
            UnreachableError: no actor serves, and none can be started.
        """
        now = time.monotonic()
        self._note_served(states, now)
        stages = {state.id: state.state for state in states}
        for slot in list(self._slots):
            yield from self._advance(slot, stages.get(slot.name, ActorStage.JOINING), now)
        if self._slots and now - self._up_at > self._plan.config.start_timeout_s:
            self._require_hope(now)

    def unready(self, states: Sequence[ActorState]) -> list[str]:
        """Return what each actor that has been placed and has not served yet is doing."""
        by_name = {state.id: state for state in states}
        return [
            describe(by_name.get(slot.name, ActorState(id=slot.name)))
            for slot in self._slots
            if slot.phase is Phase.BOOTING
        ]

    def waits(self) -> str:
        """Return the line that names the actors without room; "" if there are none."""
        waiting = sum(slot.phase is Phase.PLACING for slot in self._slots)
        return waits_for_room(waiting, self._plan.bundle, self._ground.free()) if waiting else ""

    def record(self) -> PlacementRecord:
        """Return the places of the actors, for the run's folder."""
        return PlacementRecord(
            wanted=self.wanted,
            waits=self.waits(),
            actors={
                slot.name: PlacedRecord(state=slot.phase.value, host=self._hosts.get(slot.node, ""))
                for slot in self._slots
                if slot.running is not None
            },
        )

    def leave(self, timeout_s: float) -> None:
        """Wait until all actors have left, as they do when the run ends; end them after `timeout_s`."""
        deadline = time.monotonic() + timeout_s
        running = [slot.running for slot in self._slots if slot.running is not None]
        while time.monotonic() < deadline and not all(each.has_ended() or not each.node() for each in running):
            time.sleep(LEAVE_LOOK_S)
        for each in running:
            each.remove()

    def _advance(self, slot: _Slot, stage: ActorStage, now: float) -> Iterator[str]:
        if slot.running is None:
            if now >= slot.retry_at:
                self._start(slot, now)
        elif slot.phase is Phase.LEAVING:
            yield from self._see_off(slot, slot.running, now)
        elif slot.running.has_ended():
            yield from self._clean_up(slot, slot.running.end(), now)
        elif slot.phase is Phase.PLACING:
            self._await_room(slot, slot.running, now)
        elif stage is ActorStage.SERVING:
            slot.phase, slot.failures = Phase.SERVING, 0
        elif self._is_late(slot, stage, now) and self._others_serve(slot):
            slot.running.remove()
            late = f"has not started its engine for {self._plan.config.start_timeout_s:.0f} s"
            yield from self._clean_up(slot, End(late), now)

    def _see_off(self, slot: _Slot, running: Running, now: float) -> Iterator[str]:
        """Forget an actor that has left; end it if it has had more than its time."""
        limit_s = self._plan.config.drain_s + LEAVE_EXTRA_S
        if running.has_ended():
            yield f"actor {slot.name} {running.end().why}: fewer are wanted"
        elif now - slot.since > limit_s:
            yield f"actor {slot.name} has not left for {limit_s:.0f} s, and was ended: fewer are wanted"
        else:
            return
        running.remove()
        self.ended.append(slot.boot)
        self._slots.remove(slot)

    def _start(self, slot: _Slot, now: float) -> None:
        self._number += 1
        slot.name, slot.boot, slot.node, slot.wish = f"a{self._number}", new_boot(), "", 0
        self._place(slot, now)

    def _place(self, slot: _Slot, now: float) -> None:
        slot.selector = self._selector(slot, now)
        options = dataclasses.replace(self._plan.options, actor_id=slot.name, boot=slot.boot)
        slot.running = self._ground.start(options, self._log(slot), slot.selector)
        slot.phase, slot.since = Phase.PLACING, now
        self._has_room(slot, slot.running, now)  # known now, the next one is placed elsewhere

    def _has_room(self, slot: _Slot, running: Running, now: float) -> bool:
        """Return True if an actor has a node, which is noted; its time to start begins."""
        node = running.node()
        if node:
            slot.phase, slot.node, slot.since = Phase.BOOTING, node, now
            self._learn_hosts()
        return bool(node)

    def _learn_hosts(self) -> list[Node]:
        nodes = self._ground.nodes()
        self._hosts |= {node.id: node.host for node in nodes}
        return nodes

    def _selector(self, slot: _Slot, now: float) -> dict[str, str]:
        """Return the labels of the nodes on which an actor may be, by what is known now."""
        nodes = self._learn_hosts()
        places = [other.node for other in self._slots if other is not slot and other.node]
        avoided = Avoided(
            quarantined=self._deaths.quarantined(now),
            recent=self._deaths.recent(now),
            ranks=self._ground.taken(),
            actors=crowded(nodes, self._plan.bundle, places),
        )
        choices = selectors(nodes, self._plan.bundle, self._plan.labels, avoided)
        return choices[min(slot.wish, len(choices) - 1)]

    def _await_room(self, slot: _Slot, running: Running, now: float) -> None:
        """Let an actor without a node wait elsewhere after a while: under one wish less, or as nodes came and went."""
        if not self._has_room(slot, running, now) and now - slot.since > WISH_S:
            slot.wish, slot.since = slot.wish + 1, now
            if self._selector(slot, now) != slot.selector:
                running.remove()
                self._place(slot, now)

    def _is_late(self, slot: _Slot, stage: ActorStage, now: float) -> bool:
        """Return True if a placed actor has not started in time; one that has served may go on under another id."""
        too_long = now - slot.since > self._plan.config.start_timeout_s
        return slot.phase is Phase.BOOTING and stage is ActorStage.JOINING and too_long

    def _note_served(self, states: Sequence[ActorState], now: float) -> None:
        """Keep in mind whether an engine runs, and whether actors that others have started serve."""
        silent_s = SILENT_BEATS * self._plan.config.heartbeat_s
        own = {slot.name for slot in self._slots}
        alive = [state for state in states if state.state in UP and state.silent_s <= silent_s]
        self._guests_serve = any(state.state is ActorStage.SERVING and state.id not in own for state in alive)
        if alive or any(slot.phase is Phase.SERVING for slot in self._slots):
            self._up_at = now

    def _others_serve(self, slot: _Slot) -> bool:
        """Return True if the run goes on without this actor."""
        return self._guests_serve or any(other.phase is Phase.SERVING for other in self._slots if other is not slot)

    def _require_hope(self, now: float) -> None:
        """Raise UnreachableError unless an actor is still within its time to start."""
        limit_s = self._plan.config.start_timeout_s
        booting = [slot for slot in self._slots if slot.phase is Phase.BOOTING]
        if any(now - slot.since <= limit_s for slot in booting):
            return
        if booting:
            raise UnreachableError(
                f"actor {booting[0].name} has not started its engine for {limit_s:.0f} s",
                where=str(self._log(booting[0])),
                fix="see its log; raise actors.start_timeout_s if it only needs more time",
            )
        raise UnreachableError(
            f"no actor has served for {limit_s:.0f} s: {self.waits() or 'those that start die'}",
            where=str(self._plan.log_folder),
            fix="give the cluster room, lower what an actor needs, or raise actors.start_timeout_s",
        )

    def _log(self, slot: _Slot) -> Path:
        return self._plan.log_folder / f"actor-{slot.name}.log"

    def _clean_up(self, slot: _Slot, end: End, now: float) -> Iterator[str]:
        assert slot.running is not None
        has_served = slot.phase is Phase.SERVING
        others = self._others_serve(slot)
        if isinstance(end.cause, IsentropeError) and isinstance(end.cause, FATAL) and (has_served or not others):
            raise end.cause from None
        slot.failures = 0 if has_served else slot.failures + 1
        if slot.failures >= MAX_FAILURES and not others:
            raise UnreachableError(
                f"{slot.failures} actors in a row ended before they served, the last, {slot.name}, {end.why}",
                where=str(self._log(slot)),
                fix="see its log",
            )
        node = slot.node or slot.running.node()
        host = self._hosts.get(node, "its node")
        slot.running.remove()
        self.ended.append(slot.boot)
        pause_s = min(2.0**slot.failures, MAX_PAUSE_S)
        slot.phase, slot.running, slot.node, slot.retry_at = Phase.WANTED, None, "", now + pause_s
        yield f"actor {slot.name} {end.why}; another starts in {pause_s:.0f} s (on {host}, log: {self._log(slot)})"
        if node and self._deaths.note(node, now):
            yield self._deaths.notice(host)
