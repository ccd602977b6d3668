"""A node on which every actor dies: it is left out after a few deaths, while the run trains with the actor that another
node has, and the missing actor comes when a third node does."""

import re
import signal
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from raylets import poison, raylets
from whole_commands import Start, batches, serving

from isentrope import init
from isentrope.learner import json_files
from isentrope.learner.placement_record import PlacementRecord

pytestmark = [pytest.mark.slow, pytest.mark.soak, pytest.mark.timeout(3600)]

OPTIONS = (
    "actors.count=2",
    "learner.ranks=1",
    "learner.batches=100000",
    "cluster.quarantine_after=2",
    'cluster.actor_labels={ role = "actor" }',
    'cluster.learner_labels={ role = "learner" }',
)


@dataclass
class Seen:
    """What was seen of the run."""

    deaths: int
    """Of actors, in all."""
    trained_meanwhile: int
    """Batches between the first death and the third node."""
    placed: PlacementRecord
    batches: list[int]
    code: int
    output: str


@pytest.fixture(scope="module")
def seen(
    tmp_path_factory: pytest.TempPathFactory,
    start: Start,
    record_testsuite_property: Callable[[str, object], None],
) -> Seen:
    folder = tmp_path_factory.mktemp("poison") / "example"
    init.write("digit_walk", folder)
    poisoned = poison(folder.with_name("poison"), "vllm")
    run = folder / "runs" / "digit-walk"

    with raylets(head_cpus=0) as cluster:
        cluster.add(cpus=1, role="learner")
        cluster.add(cpus=1, role="actor")
        cluster.add(cpus=1, role="actor", env=poisoned)
        command = start("train", "run.toml", *OPTIONS, "--ray-address", cluster.address, folder=folder)
        command.until(lambda: _deaths(command.output) >= 1)
        before = len(batches(run))
        command.until(lambda: "others are placed elsewhere" in command.output and len(batches(run)) >= before + 2)
        trained = len(batches(run)) - before
        cluster.add(cpus=1, role="actor")
        command.until(lambda: serving(run) == 2)
        placed = json_files.read(run, PlacementRecord)
        command.send(signal.SIGINT)
        code = command.wait()
    assert placed is not None
    return Seen(_deaths(command.output), trained, placed, batches(run), code, command.output)


def _deaths(output: str) -> int:
    return len(set(re.findall(r"actor (a\d+) .*; another starts", output)))


def test_the_run_trains_on_and_the_node_is_left_out(seen: Seen) -> None:
    assert seen.deaths == 2, seen.output
    assert seen.trained_meanwhile >= 2


def test_the_missing_actor_comes_on_another_node(seen: Seen) -> None:
    assert [actor.state for actor in seen.placed.actors.values()] == ["serving", "serving"]


def test_the_command_ends_well(seen: Seen) -> None:
    assert seen.code == 0, seen.output
    assert seen.batches == list(range(1, len(seen.batches) + 1))
