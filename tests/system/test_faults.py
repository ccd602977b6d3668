"""A demo that is killed in every part, and stopped, and started again: one story on one folder, told once.

Actor, learner rank 0 and the command itself die by SIGKILL; a second command goes on and is ended by Ctrl-C; a third
finishes. Every group that was issued is trained once or retired with a reason.
"""

import json
import signal
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from whole_commands import BOOT_S, Start, batches, left, lines

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]  # the first test waits for the whole story

BATCHES = 36
CHECKPOINT_EVERY = 10
"""As in the demo's run file."""

END_S = 15.0
"""After the death of a command nothing of it may live longer."""


@dataclass
class Story:
    """What was seen."""

    run: Path
    after_actor: str = ""
    """Output when batches went on after an actor's death."""
    after_rank: list[int] = field(default_factory=list)
    """Batches when training went on after the death of rank 0."""
    left: list[str] = field(default_factory=list)
    """Processes left by the killed command."""
    second_first: int = 0
    """First batch that the second command trained."""
    before_second: list[int] = field(default_factory=list)
    stopped_code: int = -1
    stopped: dict[str, object] = field(default_factory=dict)
    """Outcome of the second command."""
    left_by_stopped: list[str] = field(default_factory=list)
    finished_code: int = -1
    output: str = ""
    """Of the third command."""


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory, start: Start) -> Story:
    folder = tmp_path_factory.mktemp("faults")
    run = folder / "run"
    seen = Story(run)
    demo = ("demo", "--batches", str(BATCHES), "--output-dir", "run")

    command = start(*demo, folder=folder)
    command.until(lambda: len(batches(run)) >= CHECKPOINT_EVERY + 1)
    (actor,) = command.processes("ray::RolloutActor")
    actor.kill()
    trained = len(batches(run))
    command.until(lambda: "actor a1 died" in command.output and len(batches(run)) > trained + 3)
    seen.after_actor = command.output
    rank = command.processes("ray::RayTrainWorker")[0]
    rank.kill()
    rank.wait()
    trained = max(batches(run))
    command.until(lambda: "ranks were started again" in command.output and max(batches(run)) > trained)
    seen.after_rank = batches(run)
    processes = command.processes()
    command.send(signal.SIGKILL)
    seen.left = left(processes, END_S)
    seen.before_second = batches(run)

    command = start(*demo, folder=folder)
    command.until(lambda: "/36" in command.output)
    processes = command.processes()
    command.send(signal.SIGINT)
    seen.stopped_code = command.wait()
    seen.stopped = json.loads((run / "outcome.json").read_text())
    seen.left_by_stopped = left(processes, END_S)

    command = start(*demo, folder=folder)
    seen.finished_code = command.wait(2 * BOOT_S)
    seen.output = command.output
    return seen


def test_killed_actor_is_replaced_under_a_new_name(story: Story) -> None:
    assert "another starts" in story.after_actor
    names = {path.name for path in (story.run / "logs").glob("actor-a*.log")}
    assert {"actor-a1.log", "actor-a2.log"} <= names


def test_training_goes_on_when_rank_0_was_killed(story: Story) -> None:
    assert story.after_rank == list(range(1, len(story.after_rank) + 1))


def test_nothing_is_left_of_a_killed_command(story: Story) -> None:
    assert story.left == []


def test_ctrl_c_writes_a_checkpoint_and_ends_with_0(story: Story) -> None:
    assert story.stopped_code == 0
    assert story.stopped["status"] == "stopped"
    assert story.left_by_stopped == []


def test_the_same_command_finishes_what_was_interrupted(story: Story) -> None:
    assert story.finished_code == 0, story.output
    assert batches(story.run) == list(range(1, BATCHES + 1))
    assert "finished after 36 batches" in story.output
    assert (story.run / "report.html").exists()


def test_every_issued_group_was_trained_once_or_retired(story: Story) -> None:
    outcome = json.loads((story.run / "outcome.json").read_text())
    assert outcome["issued"] == outcome["trained"] + sum(outcome["retired"].values())
    assert outcome["trained"] == sum(line["groups"] for line in lines(story.run / "metrics.jsonl"))
