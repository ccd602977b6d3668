"""A demo that is killed in every part, and stopped, and started again: one story on one folder, told once.

It trains with entropy control. Twenty processes of all roles, then the command itself die by SIGKILL; a second command
goes on and is ended by Ctrl-C; a third, told to train a little more, finishes. Every group that was issued is trained
once or retired with a reason, and all that was trained is trained again, from the folder alone, to the same bits.
"""

import json
import signal
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from random_kills import FIVE, Kills, require_all_accounted_for
from waits import wait_until
from whole_commands import BOOT_S, END_S, Command, Start, batches, left, lines

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]  # the first test waits for the whole story

NEVER = 10**6
"""Batches of a run that must not finish before it is killed or stopped."""
MORE = 5
"""Batches of the third command, beyond those of the second."""
KILLS = 20
"""Processes that are killed before the command itself is."""


@dataclass
class Story:
    """What was seen."""

    run: Path
    killed: list[str] = field(default_factory=list)
    """Roles of the processes that were killed."""
    after_kills: list[int] = field(default_factory=list)
    """Batches when training went on after the last of these deaths."""
    said: str = ""
    """What the first command had printed by then."""
    left: list[str] = field(default_factory=list)
    """Processes left by the killed command."""
    stopped_code: int = -1
    stopped: dict[str, object] = field(default_factory=dict)
    """Outcome of the second command."""
    left_by_stopped: list[str] = field(default_factory=list)
    left_files: list[str] = field(default_factory=list)
    """Temporary files that are left when all commands have ended."""
    wanted: int = 0
    """Batches that the third command is to reach."""
    finished_code: int = -1
    output: str = ""
    """Of the third command."""
    replayed_code: int = -1
    replayed: str = ""
    """What the replay has printed."""


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory, start: Start, request: pytest.FixtureRequest) -> Story:
    folder = tmp_path_factory.mktemp("faults")
    request.addfinalizer((place := tempfile.TemporaryDirectory(prefix="t", dir="/tmp")).cleanup)
    run = folder / "run"
    seen = Story(run)

    def demo(batches: int) -> Command:
        options = ("--method", "kl_cov", "--actors", "2", "--batches", str(batches), "--output-dir", "run")
        return start("demo", *options, folder=folder, env={"TMPDIR": place.name})

    command = demo(NEVER)
    kills = Kills(command, run, "story")
    kills.strike(KILLS)
    seen.killed = kills.done
    trained = max(batches(run))
    command.until(lambda: max(batches(run), default=0) > trained)
    seen.after_kills = batches(run)
    seen.said = command.output
    processes = command.processes()
    command.send(signal.SIGKILL)
    seen.left = left(processes)
    wait_until(lambda: not _left_files(place), lambda: str(_left_files(place)), deadline_s=END_S)

    command = demo(NEVER)
    command.until(lambda: f"/{NEVER}" in command.output)
    processes = command.processes()
    command.send(signal.SIGINT)
    seen.stopped_code = command.wait()
    seen.stopped = json.loads((run / "outcome.json").read_text())
    seen.left_by_stopped = left(processes)

    seen.wanted = max(batches(run)) + MORE
    command = demo(seen.wanted)
    seen.finished_code = command.wait(2 * BOOT_S)
    seen.output = command.output
    seen.left_files = _left_files(place)

    command = start("replay", "run", "--to", str(seen.wanted), folder=folder)
    seen.replayed_code = command.wait()
    seen.replayed = command.output
    return seen


def _left_files(place: "tempfile.TemporaryDirectory[str]") -> list[str]:
    return sorted(path.name for path in Path(place.name).iterdir() if not path.name.startswith("torchinductor"))


def test_killed_actor_is_replaced_under_a_new_name(story: Story) -> None:
    logs = {path.name for path in (story.run / "logs").glob("actor-a*.log")}
    assert {"actor-a1.log", "actor-a2.log", "actor-a3.log"} <= logs


def test_training_goes_on_whoever_is_killed(story: Story) -> None:
    assert Counter(story.killed) == Counter(KILLS // len(FIVE) * FIVE)
    assert story.after_kills == list(range(1, len(story.after_kills) + 1))


def test_the_command_says_who_was_lost(story: Story) -> None:
    for note in (" died; another starts in", "ranks were started again", "broker had died and was started again"):
        assert note in story.said
    found = Counter(row["role"] for row in lines(story.run / "outages.jsonl"))
    assert set(found) == {"learner", "actor", "broker"}


def test_nothing_is_left_of_a_killed_command(story: Story) -> None:
    assert story.left == []


def test_ctrl_c_writes_a_checkpoint_and_ends_with_0(story: Story) -> None:
    assert story.stopped_code == 0
    assert story.stopped["status"] == "stopped"
    assert story.left_by_stopped == []


def test_no_temporary_file_is_left(story: Story) -> None:
    """Neither sockets of engines, of which some were killed, nor Ray's files, nor a broker's password."""
    assert story.left_files == []


def test_another_command_finishes_what_was_interrupted(story: Story) -> None:
    assert story.finished_code == 0, story.output
    assert batches(story.run) == list(range(1, story.wanted + 1))
    assert f"finished after {story.wanted} batches" in story.output
    assert (story.run / "report.html").exists()


def test_its_steps_come_out_again_to_the_bit(story: Story) -> None:
    assert story.replayed_code == 0, story.replayed
    assert f"batches 1 to {story.wanted} were trained again" in story.replayed


def test_entropy_control_acts(story: Story) -> None:
    assert any(line["objective"]["loss_kl_0"] > 0 for line in lines(story.run / "metrics.jsonl"))


def test_every_issued_group_was_trained_once_or_retired(story: Story) -> None:
    require_all_accounted_for(story.run)
