"""Machines that are lost in mid-run: that of an actor, and the command itself. One story on one folder, told once.

The command with its learner is on one machine, an actor on each of two others, which share the example's folder. The
machine of one actor loses its power while the actor holds orders; then the command is killed, and given again for a few
batches more.
"""

import json
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from lab import NEVER, SMALL, Lab, seconds_to_next_batch
from machines import Machine
from whole_commands import BOOT_S, batches, left, lines

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

MORE = 15
"""Batches that are waited for after each loss."""

REWARD = '''
import pathlib, time
import rewards

def reaches(**columns):
    """The example's reward; it waits as long as there is a file `hold` in the home folder."""
    while (pathlib.Path.home() / "hold").exists():
        time.sleep(0.05)
    return rewards.reaches(**columns)
'''

COMMAND = ("train", "run.toml", "actors.count=0", "data.reward=gated:reaches", "data.reward_timeout_s=3600.0", *SMALL)


@dataclass
class Story:
    """What was seen."""

    run: Path
    held: int = 0
    """Orders of the second actor when its machine was lost."""
    reaped: int = 0
    """Orders that were taken back from it."""
    after_loss: list[int] = field(default_factory=list)
    """Batches when training had gone on for a while."""
    incarnations: int = 0
    """Learners of the run until then."""
    left: list[str] = field(default_factory=list)
    """Processes that the killed command has left on its machine."""
    code: int = -1
    actor_code: int = -1
    output: str = ""


class Watched(Lab):
    """The lab with the run's state, as `isentrope status` tells it."""

    def live(self, machine: Machine) -> dict[str, Any]:
        """Return the part of the status that comes from the broker; without it, nothing."""
        told = self.start(machine, "status", "--json")
        code = told.wait(BOOT_S)
        return json.loads(told.output)["live"] or {} if code == 0 else {}

    def actor(self, machine: Machine, name: str) -> dict[str, Any]:
        """Return what the broker knows of an actor."""
        actors: list[dict[str, Any]] = self.live(machine).get("actors", [])
        return next((actor for actor in actors if actor["id"] == name), {"state": "", "leases": 0})


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory, record_testsuite_property: Callable[[str, object], None]) -> Story:
    def record(what: str, run: Path, since: float) -> None:
        record_testsuite_property(f"seconds to the next batch after {what}", seconds_to_next_batch(run, since))

    with Watched(tmp_path_factory.mktemp("lost")) as lab:
        seen = Story(lab.run)
        (lab.example / "gated.py").write_text(REWARD)
        learner, first, second = lab.add("learner", "first", "second")
        before = {process.pid for process in learner.processes()}
        command = lab.start(learner, *COMMAND, NEVER)
        actors = [lab.start(each, "actor", "--run", "digit-walk", "--name", each.name) for each in (first, second)]
        lab.until_batch(3, command, *actors)
        lab.until(lambda: lab.actor(learner, "second")["state"] == "serving", command, *actors)

        (second.folder / "home" / "hold").touch()
        lab.until(lambda: _holds(lab, learner, seen), command, *actors)
        second.kill()
        since, trained = time.time(), lab.newest_batch()
        lab.until_batch(trained + MORE, command, actors[0])
        record("the loss of an actor's machine", lab.run, since)
        lab.until(lambda: lab.live(learner)["counters"].get("reaped"), command, actors[0])
        live = lab.live(learner)
        seen.reaped, seen.incarnations = live["counters"]["reaped"], live["incarnation"]
        seen.after_loss = batches(lab.run)

        begun = [process for process in learner.processes() if process.pid not in before]
        command.send(signal.SIGKILL)
        command.wait(BOOT_S)
        seen.left = left(begun)
        since = time.time()
        command = lab.start(learner, *COMMAND, f"learner.batches={lab.newest_batch() + MORE}")
        seen.code = command.wait(BOOT_S)
        seen.output = lab.output()
        record("the loss of the command", lab.run, since)
        seen.actor_code = actors[0].wait(BOOT_S)
        return seen


def _holds(lab: Watched, learner: Machine, seen: Story) -> bool:
    seen.held = lab.actor(learner, "second")["leases"]
    return seen.held > 0


def test_training_goes_on_without_the_actor_whose_machine_was_lost(story: Story) -> None:
    assert story.after_loss == list(range(1, len(story.after_loss) + 1))
    assert story.incarnations == 1, "the learner did not start again"


def test_orders_of_the_lost_machine_come_back(story: Story) -> None:
    assert story.reaped >= 1 and story.held >= 1


def test_nothing_is_left_of_a_killed_command(story: Story) -> None:
    assert story.left == []


def test_the_same_command_continues_and_the_remaining_actor_serves_it(story: Story) -> None:
    assert story.code == 0 and story.actor_code == 0, story.output
    assert batches(story.run) == list(range(1, max(batches(story.run)) + 1))


def test_every_issued_group_was_trained_once_or_retired(story: Story) -> None:
    outcome = json.loads((story.run / "outcome.json").read_text())
    assert outcome["status"] == "finished"
    assert outcome["issued"] == outcome["trained"] + sum(outcome["retired"].values())
    assert outcome["trained"] == sum(line["groups"] for line in lines(story.run / "metrics.jsonl"))
