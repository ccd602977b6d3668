"""Whichever way a run is ended, the command says why in three lines and leaves with the promised code."""

import json
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from raylets import raylets
from whole_commands import Start, left

from isentrope import init

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

VANISHING = """
from pathlib import Path
from rewards import reaches

if list(Path(__file__).parent.glob("runs/*/run.json")):
    raise ModuleNotFoundError("nothing here", name="vanishing")
"""
"""A reward that the command's own check can import, and no actor can: an error that all others would have too."""

REPEATS = 20
"""Ends at each place in soak tests: what a race of threads loses is lost in some of them."""


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ways-out") / "example"
    init.write("digit_walk", folder)
    return folder


@pytest.fixture(scope="module")
def head() -> Iterator[str]:
    """Address of a Ray cluster of one node."""
    with raylets(head_cpus=4) as cluster:
        yield cluster.address


def _ends_with_three_lines(start: Start, example: Path, folder: Path, *options: str) -> None:
    shutil.copytree(example, folder)
    (folder / "vanishing.py").write_text(VANISHING)
    command = start("train", "run.toml", "data.reward=vanishing:reaches", *options, folder=folder)
    code = command.wait()
    assert code == 65, command.output
    told = command.output.splitlines()
    (begin,) = [number for number, line in enumerate(told) if line.startswith("error: ")]
    assert "cannot import 'vanishing'" in told[begin]
    assert [line.split(":")[0] for line in told[begin + 1 :]] == ["  where", "  fix"]
    outcome = json.loads((folder / "runs" / "digit-walk" / "outcome.json").read_text())
    assert (outcome["status"], outcome["exit_code"]) == ("error", 65)


def test_an_error_of_all_actors_is_told_on_a_ray_of_the_commands_own(
    start: Start, example: Path, tmp_path: Path
) -> None:
    _ends_with_three_lines(start, example, tmp_path / "own")


def test_an_error_of_all_actors_is_told_on_a_running_cluster(
    start: Start, example: Path, head: str, tmp_path: Path
) -> None:
    _ends_with_three_lines(start, example, tmp_path / "running", "--ray-address", head)


@pytest.mark.soak
@pytest.mark.parametrize("repeat", range(REPEATS))
def test_no_repeat_ends_without_a_word_on_a_ray_of_its_own(
    start: Start, example: Path, tmp_path: Path, repeat: int
) -> None:
    _ends_with_three_lines(start, example, tmp_path / "own")


@pytest.mark.soak
@pytest.mark.parametrize("repeat", range(REPEATS))
def test_no_repeat_ends_without_a_word_on_a_running_cluster(
    start: Start, example: Path, head: str, tmp_path: Path, repeat: int
) -> None:
    _ends_with_three_lines(start, example, tmp_path / "running", "--ray-address", head)


def test_a_second_interrupt_in_the_start_ends_at_once_and_leaves_nothing(start: Start, example: Path) -> None:
    command = start("train", "run.toml", "run.output_dir=runs/interrupted", folder=example)
    log = example / "runs" / "interrupted" / "logs" / "learner.log"
    command.until(log.exists)  # the learner's ranks are being started
    processes = command.processes()
    command.send(signal.SIGINT)
    command.send(signal.SIGTERM)  # two of one kind may be delivered as one
    assert command.wait() in (0, 130), command.output
    assert left(processes) == []
