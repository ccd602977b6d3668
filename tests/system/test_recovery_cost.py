"""Seconds that the loss of each role costs a run, and the share of its time that is useful where one is lost every
tenth batch; into `docs/results/soak.json`, from which README's table is made."""

import os
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from random_kills import processes_of, require_all_accounted_for
from totals import add
from whole_commands import Command, Start, batches, lines, serving

from isentrope.demo.model import make_model
from isentrope.demo.recipe import RUN_FILE

pytestmark = [pytest.mark.soak, pytest.mark.timeout(3 * 3600)]

REWARD = '''
import time

SECONDS = {seconds}

def slow(completions, **columns):
    """Even lengths are rewarded, after a while."""
    time.sleep(SECONDS)
    return [float(len(text) % 2 == 0) for text in completions]
'''

GROUPS, ACTORS, WORKERS = 8, 2, 2
OPTIONS = (
    "data.reward=paced:slow",
    "data.eval_prompts=8",
    "data.eval_samples=1",
    f"actors.count={ACTORS}",
    f"actors.reward_workers={WORKERS}",
    f"learner.prompts_per_batch={GROUPS}",
    "learner.checkpoint_every=5",
    "learner.eval_every=0",
)

ROLES = {"rank": "learner", "actor": "actor", "engine": "actor", "broker": "broker"}
"""Processes to kill, and the role in `outages.jsonl`."""
SPAN = 10
"""Batches in which one process is lost, at least."""
FIRST = 3
"""Batches before the run is in its stride."""


@dataclass(frozen=True)
class Cost:
    """A fault's cost: so many batches took so long."""

    batches: int
    seconds: float


@pytest.mark.parametrize(("batch_s", "rounds"), [(1.0, 3), (13.0, 1)])
def test_what_the_loss_of_each_role_costs(start: Start, tmp_path: Path, batch_s: float, rounds: int) -> None:
    run = tmp_path / "run"
    make_model(tmp_path / "model")
    (tmp_path / "paced.py").write_text(REWARD.format(seconds=batch_s * ACTORS * WORKERS / GROUPS))
    own = (f"run.output_dir={run}", f"model.path={tmp_path / 'model'}", f"run.base_dir={tmp_path}")
    options = ("train", str(RUN_FILE), *OPTIONS, *own)
    command = start(*options, "learner.batches=1000000", folder=tmp_path)
    command.until(lambda: serving(run) == ACTORS and len(batches(run)) > FIRST)
    subject = f"the loss of a process, batches of {batch_s:.0f} s"
    for turn in range(rounds):
        for role in ROLES:
            usual_s = _undisturbed(command, run)
            cost = _lose(command, run, role)
            lost_s = round(max(0.0, cost.seconds - cost.batches * usual_s), 1)
            load = round(os.getloadavg()[1], 1)  # of the last five minutes: what the seconds depend on
            seen = {"seconds lost": lost_s, "batches": cost.batches, "seconds of a batch": round(usual_s, 2)}
            add(subject, f"{role} {turn + 1}", {**seen, "load": load})
    assert start("stop", str(run), folder=tmp_path).wait() == 0
    assert command.wait() == 0, command.output
    command = start(*options, f"learner.batches={max(batches(run)) + 1}", folder=tmp_path)  # trains or retires the rest
    assert command.wait() == 0, command.output
    require_all_accounted_for(run)


def _undisturbed(command: Command, run: Path) -> float:
    """Return the seconds that a batch takes now, while nothing is lost."""
    first = max(batches(run))
    command.until(lambda: first + SPAN in batches(run))
    return (_trained_at(run, first + SPAN) - _trained_at(run, first)) / SPAN


def _lose(command: Command, run: Path, role: str) -> Cost:
    """Kill a process of the role; return what the batches took until all was as before."""
    before, outages = max(batches(run)), _outages(run, role)
    began = _trained_at(run, before)
    victim = processes_of(command, role)[0]
    victim.kill()

    def is_over() -> bool:
        back = _outages(run, role) > outages if role != "broker" else _is_replaced(command, victim)
        return back and serving(run) == ACTORS and max(batches(run), default=0) >= before + SPAN

    command.until(is_over)
    newest = max(batches(run))
    return Cost(newest - before, _trained_at(run, newest) - began)


def _is_replaced(command: Command, victim: psutil.Process) -> bool:
    return any(each != victim for each in processes_of(command, "broker"))


def _outages(run: Path, role: str) -> int:
    return sum(row["role"] == ROLES[role] for row in lines(run / "outages.jsonl"))


def _trained_at(run: Path, batch: int) -> float:
    (row,) = [row for row in lines(run / "metrics.jsonl") if row["batch"] == batch]
    return float(row["time"]["at"])
