"""A node on which every rank dies: it is left out after two deaths, as for actors, once another can have the rank."""

import re
import signal
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from raylets import poison, raylets
from whole_commands import Start, batches

from isentrope import init

pytestmark = [pytest.mark.slow, pytest.mark.soak, pytest.mark.timeout(3600)]

OPTIONS = (
    "actors.count=1",
    "learner.ranks=1",
    "learner.batches=100000",
    "cluster.quarantine_after=2",
    "cluster.restart_limit=100",
    'cluster.actor_labels={ role = "actor" }',
    'cluster.learner_labels={ role = "learner" }',
)


@dataclass
class Seen:
    """What was seen of the run."""

    deaths: int
    batches: list[int]
    code: int
    output: str


@pytest.fixture(scope="module")
def seen(
    tmp_path_factory: pytest.TempPathFactory, start: Start, record_testsuite_property: Callable[[str, object], None]
) -> Seen:
    folder = tmp_path_factory.mktemp("poison") / "example"
    init.write("digit_walk", folder)
    poisoned = poison(folder.with_name("poison"), "deepspeed")
    run = folder / "runs" / "digit-walk"

    with raylets(head_cpus=0) as cluster:
        cluster.add(cpus=1, role="learner", env=poisoned)
        cluster.add(cpus=1, role="actor")
        command = start("train", "run.toml", *OPTIONS, "--ray-address", cluster.address, folder=folder)
        command.until(lambda: "others are placed elsewhere" in command.output)
        cluster.add(cpus=1, role="learner")
        command.until(lambda: len(batches(run)) >= 2)
        command.send(signal.SIGINT)
        code = command.wait()
    deaths = len(re.findall("a rank has died", command.output))
    record_testsuite_property("deaths of ranks before the poisoned node was left", deaths)
    return Seen(deaths, batches(run), code, command.output)


def test_the_node_is_left_once_another_has_room_and_the_run_trains(seen: Seen) -> None:
    assert seen.deaths >= 2, seen.output
    assert seen.batches == list(range(1, len(seen.batches) + 1)) and len(seen.batches) >= 2


def test_the_command_ends_well(seen: Seen) -> None:
    assert seen.code == 0, seen.output
