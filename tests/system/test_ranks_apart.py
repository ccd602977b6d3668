"""Ranks on machines of their own, one of which is lost: the others go on from the checkpoint, with a rank elsewhere.

A Ray cluster has room for one rank on each of three machines, which share the run's folder with the command and nothing
else: neither the example's folder nor the model's. The command is on the head, which has room for none, and the actor
on a machine without Ray.
"""

import json
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from lab import SMALL, Lab, seconds_to_next_batch
from machines import Command, Machine
from whole_commands import BOOT_S, batches, lines

pytestmark = [pytest.mark.slow, pytest.mark.soak, pytest.mark.timeout(3600)]

RAY_PORT = "6379"

COMMAND = ("train", "run.toml", "actors.count=0", "learner.ranks=2", "learner.checkpoint_every=3", *SMALL)

MORE = 6


@dataclass
class Story:
    """What was seen."""

    run: Path
    hosts: set[str] = field(default_factory=set)
    """Machines of the ranks before the loss."""
    hosts_after: set[str] = field(default_factory=set)
    incarnations: int = 0
    code: int = -1
    output: str = ""
    said: str = ""
    """All that the command has printed."""


def join_ray(machine: Machine, cpus: int, head: Machine | None) -> Command:
    """Start Ray on a machine: a node of the cluster of `head`, or the head itself."""
    of_the_head = ("--head", "--port", RAY_PORT, "--include-dashboard", "false")
    place = of_the_head if head is None else ("--address", f"{head.address}:{RAY_PORT}")
    sizes = ("--num-cpus", str(cpus), "--num-gpus", "0", "--object-store-memory", "80000000")
    options = ("--node-ip-address", machine.address, "--disable-usage-stats", "--block")
    return machine.start(
        "ray", "start", *place, *sizes, *options, env={"RAY_raylet_start_wait_time_s": str(int(BOOT_S))}
    )


def ranks_on(machines: list[Machine]) -> set[str]:
    """Return the machines that have a rank."""
    return {machine.name for machine in machines if machine.is_alive and machine.processes("RayTrainWorker")}


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory, record_testsuite_property: Callable[[str, object], None]) -> Story:
    with Lab(tmp_path_factory.mktemp("apart")) as lab:
        seen = Story(lab.run)
        lab.run.mkdir(parents=True)
        head, guest = lab.add("head", "guest")
        nodes = lab.add("n1", "n2", "n3", shared=[lab.run])
        rays = [join_ray(head, 0, None)]
        lab.until(lambda: "Ray runtime started" in rays[0].output, *rays)
        rays += [join_ray(node, 1, head) for node in nodes]
        lab.until(lambda: all("Ray runtime started" in each.output for each in rays), *rays)
        address = ("--ray-address", f"{head.address}:{RAY_PORT}")
        command = lab.start(head, *COMMAND, "learner.batches=1000000", *address)
        actor = lab.start(guest, "actor", "--run", "digit-walk")
        lab.until_batch(4, command, actor)

        seen.hosts = ranks_on(nodes)
        lost = next(node for node in nodes if node.name in seen.hosts)
        lost.kill()
        since, trained = time.time(), lab.newest_batch()
        lab.until_batch(trained + MORE, command, actor)
        record_testsuite_property(
            "seconds to the next batch after the loss of a rank's machine", seconds_to_next_batch(lab.run, since)
        )
        seen.hosts_after = ranks_on(nodes)
        command.send(signal.SIGINT)
        seen.code = command.wait(BOOT_S)
        seen.output, seen.said = lab.output(), command.output
        seen.incarnations = json.loads((lab.run / "outcome.json").read_text())["incarnation"]
        return seen


def test_two_machines_train_one_model(story: Story) -> None:
    assert len(story.hosts) == 2


def test_they_see_nothing_of_the_example_but_the_run(story: Story) -> None:
    assert "the model's files are put into the run's folder: n1, n2, n3 would not see them" in story.said
    assert (story.run / "model" / "config.json").is_file()


def test_training_goes_on_from_the_checkpoint_when_one_is_lost(story: Story) -> None:
    assert story.incarnations == 2 and len(story.hosts_after) == 2 and story.hosts_after != story.hosts
    assert batches(story.run) == list(range(1, max(batches(story.run)) + 1))


def test_the_command_ends_well(story: Story) -> None:
    assert story.code == 0, story.output
    trained = sum(line["groups"] for line in lines(story.run / "metrics.jsonl"))
    assert json.loads((story.run / "outcome.json").read_text())["trained"] == trained
