"""Kills of a running command's processes, drawn by a seed: whom, and when; and what must hold of its folder after."""

import contextlib
import json
import random
from collections.abc import Callable
from pathlib import Path

import psutil
from whole_commands import Command, batches, lines

from isentrope.learner.training.checkpoint_store import CHECKPOINTS, newest_batch
from isentrope.learner.training.group_store import read_record
from isentrope.learner.training.replay import find_route

CPU_S = 1.0
"""Most processor time that a victim works on, after the batch that was waited for: kills then hit every phase."""


def _holds(word: str) -> Callable[[psutil.Process], bool]:
    return lambda process: word in " ".join([process.name(), *process.cmdline()])


_is_actor = _holds("ray::RolloutActor")


def _is_engine(process: psutil.Process) -> bool:
    """Whether it is the process that an actor has for its engine. Its title alone does not say so: where vLLM has
    changed the first variable of the environment, no title can be set any more."""
    parent = process.parent()
    return parent is not None and _is_actor(parent) and (_holds("EngineCore")(process) or _holds("spawn_main")(process))


ROLES: dict[str, Callable[[psutil.Process], bool]] = {
    "rank": _holds("ray::RayTrainWorker"),
    "actor": _is_actor,
    "engine": _is_engine,
    "broker": _holds("redis-server"),
}


FIVE = (*sorted(ROLES), "broker")


class Kills:
    """A series of kills, of the same roles for the same seed. Of five, one hits each role, and two the broker, which is
    back at once: an engine takes long to start."""

    def __init__(self, command: Command, run: Path, seed: str) -> None:
        self._command = command
        self._run = run
        self._chance = random.Random(seed)
        self._checkpoint = -1
        self.done: list[str] = []
        """Role of each process that was killed."""

    def strike(self, count: int) -> None:
        """Kill `count` processes, each after at least one batch more than were ever trained, and ranks after a
        checkpoint more: a run ends by deaths of ranks without one."""
        roles = [role for _ in range(-(-count // len(FIVE))) for role in FIVE]
        for role in self._chance.sample(roles, len(roles))[:count]:
            while not self._kill_one(role):
                pass
            self.done.append(role)

    def _kill_one(self, role: str) -> bool:
        """Kill a process of a role. False: it had ended by itself, as one that an earlier kill has left alone."""
        victim = self._chance.choice(self._until_trained(role))
        self._let_work(victim)
        try:
            victim.kill()
        except psutil.NoSuchProcess:
            return False
        return True

    def _until_trained(self, role: str) -> list[psutil.Process]:
        """Wait until processes of a role may be killed; return them."""
        seen, checkpoints, found = _newest(self._run), self._run / CHECKPOINTS, list[psutil.Process]()

        def may_be_killed() -> bool:
            if _newest(self._run) <= seen or (role == "rank" and newest_batch(checkpoints) <= self._checkpoint):
                return False
            found[:] = processes_of(self._command, role)
            return bool(found)

        self._command.until(may_be_killed)
        if role == "rank":
            self._checkpoint = newest_batch(checkpoints)
        return found

    def _let_work(self, victim: psutil.Process) -> None:
        """Let a process work for a while, or until another batch was trained or it has ended itself."""
        seen, until = _newest(self._run), _cpu_s(victim) + self._chance.uniform(0, CPU_S)
        self._command.until(lambda: not 0 < _cpu_s(victim) < until or _newest(self._run) != seen)


def processes_of(command: Command, role: str) -> list[psutil.Process]:
    """Return the processes of a role that run, the oldest first."""
    found = list[psutil.Process]()
    for process in command.processes():
        with contextlib.suppress(psutil.Error):
            if process.status() != psutil.STATUS_ZOMBIE and ROLES[role](process):
                found.append(process)
    return sorted(found, key=lambda process: process.pid)


def require_all_accounted_for(run: Path) -> list[int]:
    """Require that every group was trained once or retired with a reason; return the trained ones.

    The kept plans say which groups led to the newest checkpoint; the broker's counts and the metrics must agree.
    """
    outcome = json.loads((run / "outcome.json").read_text())
    plans = [read_record(path).plan for path in find_route(run, None, "").batches]
    trained = [group.seq for plan in plans for group in plan.groups]
    assert len(set(trained)) == len(trained) == outcome["trained"]
    assert outcome["issued"] == outcome["trained"] + sum(outcome["retired"].values())
    assert batches(run) == [plan.batch for plan in plans] == list(range(1, outcome["batches"] + 1))
    assert outcome["trained"] == sum(line["groups"] for line in lines(run / "metrics.jsonl"))
    return trained


def _newest(run: Path) -> int:
    return max(batches(run), default=0)


def _cpu_s(process: psutil.Process) -> float:
    """Return the processor time of a process; 0: it is gone."""
    try:
        times = process.cpu_times()
    except psutil.Error:
        return 0.0
    return float(times.user + times.system)
