"""The rollout actors of one command, each a Ray actor with its own slot: started, watched, replaced when they die.

A replacement is always a new actor, under a new id.
"""

import asyncio
import dataclasses
import logging
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from isentrope.actors.config import ActorsConfig
from isentrope.environment import cache_folder, forget_command_folder
from isentrope.errors import AccessError, ConfigError, DataError, RunFolderError, UnreachableError
from isentrope.launch import logs
from isentrope.launch.interrupts import SIGNALS
from isentrope.rollout.broker.run_view import ActorStage, ActorState
from isentrope.rollout.broker.waiting import describe

if TYPE_CHECKING:
    from isentrope.actors.worker import ActorOptions

FATAL = (ConfigError, DataError, AccessError, RunFolderError)
"""Errors that every other actor would have too."""

MAX_FAILURES = 5
"""Deaths in a row, without an actor having served in between, after which the run ends."""

MAX_PAUSE_S = 60.0
"""Longest wait before an actor is started again."""

logger = logging.getLogger(__name__)


class RolloutActor:
    """Body of the Ray actor."""

    def serve(self, options: "ActorOptions", log: Path) -> None:
        """Run an actor until it is told to leave."""
        logs.to_file(log)
        forget_command_folder()
        try:
            asyncio.run(serve(options))
        except Exception:
            logger.exception("this actor failed")  # Ray does not show it
            raise


async def serve(options: "ActorOptions") -> None:
    """Run an actor until the run ends or a signal asks it to leave; without a cache it uses the user's."""
    from isentrope.actors import worker

    if options.places.cache == Path():
        places = dataclasses.replace(options.places, cache=cache_folder() / "runs")
        options = dataclasses.replace(options, places=places)
    drain = asyncio.Event()
    for number in SIGNALS:
        asyncio.get_running_loop().add_signal_handler(number, drain.set)
    await worker.serve(options, drain)


@dataclasses.dataclass(frozen=True, slots=True)
class ActorPlan:
    """Settings that all actors of a command share."""

    options: "ActorOptions"
    """Options of each actor, but for the id."""
    config: ActorsConfig
    gpus: int
    """GPUs of each actor."""
    log_folder: Path


@dataclasses.dataclass(slots=True)
class _Slot:
    """One wanted actor: the present actor, or the time when the next one may start."""

    name: str = ""
    handle: Any = None
    future: Any = None
    started: float = 0.0
    served: bool = False
    failures: int = 0
    retry_at: float = 0.0


class Actors:
    """The actors of one command. Not thread-safe."""

    def __init__(self, plan: ActorPlan, last_number: int) -> None:
        """Start no actor yet; ids continue from `last_number`, the number of the run's newest actor."""
        self._plan = plan
        self._number = last_number
        self._slots = [_Slot() for _ in range(plan.config.count)]

    def tend(self, states: Sequence[ActorState]) -> Iterator[str]:
        """Start missing actors, clean up dead ones; yield one event line each. `states`: the broker's records.

        Raises:
            IsentropeError: an actor ended with an error that every other would have too.
            UnreachableError: an actor cannot be started.
        """
        by_name = {state.id: state.state for state in states}
        for slot in self._slots:
            if slot.future is None:
                if time.monotonic() >= slot.retry_at:
                    self._start(slot)
                continue
            stage = by_name.get(slot.name, ActorStage.JOINING)
            slot.served = slot.served or stage is ActorStage.SERVING
            if self._has_ended(slot):
                yield self._clean_up(slot)
            elif self._is_late(slot, stage):
                raise UnreachableError(
                    f"actor {slot.name} has not started its engine for {self._plan.config.start_timeout_s:.0f} s",
                    where=str(self._log(slot)),
                    fix="see its log; raise actors.start_timeout_s if it only needs more time",
                )

    def unready(self, states: Sequence[ActorState]) -> list[str]:
        """Return what each actor that has not served yet is doing."""
        by_name = {state.id: state for state in states}
        return [
            describe(by_name.get(slot.name, ActorState(id=slot.name)))
            for slot in self._slots
            if slot.future is not None and not slot.served
        ]

    def leave(self, timeout_s: float) -> None:
        """Wait until all actors have left, as they do when the run ends; end them after `timeout_s`."""
        import ray

        futures = [slot.future for slot in self._slots if slot.future is not None]
        if futures:
            ray.wait(futures, num_returns=len(futures), timeout=timeout_s)
        for slot in self._slots:
            if slot.handle is not None:
                ray.kill(slot.handle)

    def _start(self, slot: _Slot) -> None:
        import ray

        self._number += 1
        slot.name, slot.started, slot.served = f"a{self._number}", time.monotonic(), False
        remote: Any = ray.remote(num_cpus=0, num_gpus=self._plan.gpus, max_restarts=0)(RolloutActor)
        slot.handle = remote.remote()
        slot.future = slot.handle.serve.remote(
            dataclasses.replace(self._plan.options, actor_id=slot.name), self._log(slot)
        )

    def _is_late(self, slot: _Slot, stage: ActorStage) -> bool:
        """Return True if the actor has not started in time; one that has served may go on under another id."""
        too_long = time.monotonic() - slot.started > self._plan.config.start_timeout_s
        return stage is ActorStage.JOINING and too_long and not slot.served

    def _log(self, slot: _Slot) -> Path:
        return self._plan.log_folder / f"actor-{slot.name}.log"

    def _has_ended(self, slot: _Slot) -> bool:
        import ray

        done, _ = ray.wait([slot.future], timeout=0)
        return bool(done)

    def _clean_up(self, slot: _Slot) -> str:
        import ray
        from ray.exceptions import RayActorError, RayTaskError

        try:
            ray.get(slot.future)
            why = "left"
        except RayTaskError as error:
            if isinstance(error.cause, FATAL):
                raise error.cause from None
            why = f"failed: {error.cause}"
        except RayActorError:
            why = "died"
        slot.failures = 0 if slot.served else slot.failures + 1
        if slot.failures == MAX_FAILURES:
            raise UnreachableError(
                f"{slot.failures} actors in a row ended before they served, the last, {slot.name}, {why}",
                where=str(self._log(slot)),
                fix="see its log",
            )
        pause_s = min(2.0**slot.failures, MAX_PAUSE_S)
        slot.handle = slot.future = None
        slot.retry_at = time.monotonic() + pause_s
        return f"actor {slot.name} {why}; another starts in {pause_s:.0f} s (log: {self._log(slot)})"
