"""Three machines pass versions on to each other, as the depot's uplink is slow; one loses its power, one is deceived.

One story on one run, told once. The depot has a machine of its own, so that what it sends is known twice: by the cable,
and by what the actors say of each version.
"""

import json
import re
import shutil
import signal
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from lab import NEVER, SMALL, Lab
from machines import Command, Machine
from whole_commands import BOOT_S, batches

pytestmark = [pytest.mark.slow, pytest.mark.soak, pytest.mark.timeout(3600)]

UPLINK = 2_000_000
"""Bits per second that the depot's machine sends."""

FETCHED = re.compile(r"version (\d+): (\d+) bytes from the depot, (\d+) from relays")

TOGETHER = 4
"""Versions that all machines have fetched, at least, before the story goes on."""


@dataclass
class Story:
    """What was seen. fetched: version -> bytes from the depot, and from relays, of each machine that has fetched it."""

    run: Path
    code: int = -1
    output: str = ""
    sent: int = 0
    fetched: dict[int, list[tuple[int, int]]] = field(default_factory=dict)
    after_loss: int = 0
    deceived_code: int = -1
    deceived: str = ""


def sent_by(machine: Machine) -> int:
    """Bytes that a machine has sent over its cable."""
    (line,) = (each for each in machine.run("cat", "/proc/net/dev").stdout.splitlines() if "eth0:" in each)
    return int(line.partition(":")[2].split()[8])


def fetched(actors: list[Command]) -> dict[int, list[tuple[int, int]]]:
    """What the actors say of each version."""
    found: dict[int, list[tuple[int, int]]] = {}
    for actor in actors:
        for version, direct, relayed in FETCHED.findall(actor.output):
            found.setdefault(int(version), []).append((int(direct), int(relayed)))
    return found


def by_all(actors: list[Command], count: int) -> int:
    """Number of versions that so many machines have fetched."""
    return sum(len(each) >= count for each in fetched(actors).values())


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory, record_testsuite_property: Callable[[str, object], None]) -> Story:
    with Lab(tmp_path_factory.mktemp("relays")) as lab:
        seen = Story(lab.run)
        learner, depot, liar = lab.add("learner", "depot", "liar")
        guests, (deceived,) = lab.add("one", "two", "three", shared=False), lab.add("deceived", shared=False)
        changes = ("actors.count=0", "weights.relay_port=8801", "weights.keep=4", NEVER, *SMALL)
        command = lab.start(learner, "train", "run.toml", *changes)
        lab.until(lambda: any(lab.run.glob("bundle/*.tar")) and (lab.run / "run.json").is_file(), command)
        served = lab.start(depot, "depot", str(lab.run), "--bind", "0.0.0.0:8800")
        depot.slow(UPLINK)
        where = ("actor", "--run", "digit-walk", "--cache", str(Path.home() / "cache"), "--depot")
        actors = [lab.start(guest, *where, "http://depot:8800", "--name", guest.name) for guest in guests]

        false = lab.example / "false"
        shutil.copytree(lab.run / "bundle", false / "bundle")
        shutil.copy(lab.run / "run.json", false)
        (bundle,) = (false / "bundle").glob("*.tar")
        bundle.write_bytes(bytes([bundle.read_bytes()[0] ^ 1]) + bundle.read_bytes()[1:])
        lies = lab.start(liar, "depot", str(false), "--bind", "0.0.0.0:8800")
        lab.until(lambda: "is offered" in lies.output, lies)
        victim = lab.start(deceived, *where, "http://liar:8800")
        seen.deceived_code, seen.deceived = victim.wait(BOOT_S), victim.output

        lab.until(lambda: by_all(actors, 3) >= TOGETHER, command, served, *actors)
        seen.fetched, seen.sent = fetched(actors), sent_by(depot)
        guests[0].kill()
        seen.after_loss = lab.newest_batch()
        lab.until(lambda: by_all(actors[1:], 2) >= by_all(actors, 3) + TOGETHER, command, served, *actors[1:])
        lab.until_batch(seen.after_loss + 2, command, served, *actors[1:])
        command.send(signal.SIGINT)
        seen.code, seen.output = command.wait(BOOT_S), lab.output(*actors)
        sizes = [max(map(sum, each)) for each in seen.fetched.values()]
        direct = sum(direct for each in seen.fetched.values() for direct, _ in each)
        record_testsuite_property("copies of a version that the depot sends to three machines", direct / sum(sizes))
        return seen


def test_the_depot_sends_each_version_about_once(story: Story) -> None:
    by_three = [each for each in story.fetched.values() if len(each) == 3]
    assert len(by_three) >= TOGETHER
    size = sum(max(map(sum, each)) for each in by_three)
    assert sum(direct for each in by_three for direct, _ in each) <= 1.5 * size, by_three
    assert story.sent <= 2 * sum(max(map(sum, each)) for each in story.fetched.values())


def test_the_loss_of_a_machine_that_passes_versions_on_stops_nothing(story: Story) -> None:
    assert story.code == 0, story.output
    assert len(batches(story.run)) >= story.after_loss + 2
    assert batches(story.run) == list(range(1, len(batches(story.run)) + 1))


def test_an_actor_that_a_depot_deceives_says_so(story: Story) -> None:
    assert story.deceived_code == 74 and "has another digest" in story.deceived, story.deceived
    assert "Traceback" not in story.deceived


def test_every_issued_group_was_trained_once_or_retired_or_is_in_hand(story: Story) -> None:
    outcome = json.loads((story.run / "outcome.json").read_text())
    counted = Counter(outcome["retired"]).total() + outcome["trained"]
    assert 0 <= outcome["issued"] - counted <= 16
