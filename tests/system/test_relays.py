"""Three machines pass versions on while the depot's uplink is slow; one loses its power while the others follow it.

The versions are of random bytes, and there is no engine: what the depot sends over its cable is all that is asked.
"""

import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from lab import start_broker
from machines import Command, Machine, Switch, why_not
from relay_ends import DEPOT_PORT
from waits import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.soak]

HERE = Path(__file__).parent

UPLINK = 2_000_000
"""Bits per second that the depot's machine sends."""

SIZE = 500_000
"""Bytes of a version."""

VERSIONS = 3
"""Versions that all three fetch."""

FRAMES = 1.15
"""Bytes on the cable for each byte of a file, at most, and those of requests."""

FETCHED = re.compile(r": (\d+) bytes from the depot, (\d+) from relays")


def sent_by(machine: Machine) -> int:
    """Bytes that a machine has sent over its cable."""
    (line,) = (each for each in machine.run("cat", "/proc/net/dev").stdout.splitlines() if "eth0:" in each)
    return int(line.partition(":")[2].split()[8])


class Story:
    """The machines, and the versions that they have."""

    def __init__(self, switch: Switch, run: Path) -> None:
        self._run = run
        self._url = start_broker(switch)
        learner, self.depot = switch.add("learner"), switch.add("depot")
        self.actors = [switch.add(name, shared=False) for name in ("one", "two", "three")]
        self._depot_command = self._start(self.depot, "depot", str(run))
        self._learner_command = self._start(learner, "learner", self._url, "r", str(run))
        self.says = [self._start(actor, "actor", self._url, "r", f"http://depot:{DEPOT_PORT}") for actor in self.actors]
        self.until(lambda: all("begins" in each.output for each in self.says))
        self.depot.slow(UPLINK)

    def publish(self, batch: int, size: int) -> None:
        """Let the learner announce a version."""
        (self._run / "new").write_text(str(size))
        (self._run / "new").rename(self._run / f"wanted-{batch}")

    def served(self, batch: int, says: list[Command]) -> bool:
        """True if all of these have verified the version of a batch."""
        return all(f'{{"served": {batch}}}' in each.output for each in says)

    def until(self, condition: Callable[[], object]) -> None:
        wait_until(condition, lambda: "\n\n".join(each.output[-2000:] for each in self.says), deadline_s=300.0)

    def _start(self, machine: Machine, *arguments: str) -> Command:
        paths = {"PYTHONPATH": ":".join([str(HERE.parents[1] / "src"), *sys.path])}
        return machine.start(sys.executable, str(HERE / "relay_ends.py"), *arguments, env=paths, name=arguments[0])


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    if reason := why_not():
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("relays")
    run = folder / "run"
    run.mkdir()
    with Switch(folder, shared=[run]) as switch:
        yield Story(switch, run)


def test_the_depot_sends_each_byte_once(story: Story, record_testsuite_property: Callable[[str, object], None]) -> None:
    before = sent_by(story.depot)
    for batch in range(VERSIONS):
        story.publish(batch, SIZE)
        story.until(lambda batch=batch: story.served(batch, story.says))
    sent = sent_by(story.depot) - before
    record_testsuite_property("copies of a version that a depot sends to three machines", sent / VERSIONS / SIZE)
    assert VERSIONS * SIZE <= sent <= FRAMES * VERSIONS * SIZE
    told = [tuple(map(int, found)) for each in story.says for found in FETCHED.findall(each.output)]
    assert len(told) == 3 * VERSIONS and sum(direct for direct, _ in told) * 2 == sum(relayed for _, relayed in told)


def test_the_loss_of_a_machine_that_others_follow_costs_a_copy_at_most(story: Story) -> None:
    """The others go on from what they have."""
    before, size = sent_by(story.depot), 4 * SIZE
    story.publish(VERSIONS, size)

    def part_of(actor: Machine) -> int:
        parts = actor.folder.glob("home/r/weights/*.part/*.safetensors")
        return sum(part.stat().st_size for part in parts)

    story.until(lambda: all(part_of(actor) > SIZE / 2 for actor in story.actors))
    first = max(story.actors, key=part_of)
    first.kill()
    rest = [says for actor, says in zip(story.actors, story.says, strict=True) if actor is not first]
    story.until(lambda: story.served(VERSIONS, rest))
    assert sent_by(story.depot) - before <= FRAMES * 2 * size
