"""An actor on a machine that shares nothing with the run but a broker by TLS and a depot by HTTPS.

One story on one run, told once: an actor has no room for what it fetches, one does not know the authority of both, and
the depot vanishes and comes back.
"""

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from lab import SMALL, Lab, seconds_to_next_batch
from machines import Command, Machine
from whole_commands import BOOT_S, batches, lines

pytestmark = [pytest.mark.slow, pytest.mark.soak, pytest.mark.timeout(3600)]

BATCHES = 40
"""Of the run; without the depot's newer versions it cannot come so far."""

TLS_PORT = 6380

DEPOT_PORT = 8443

TLS = """
import asyncio, ssl, sys

async def carry(source, target):
    try:
        while data := await source.read(65536):
            target.write(data)
            await target.drain()
    finally:
        target.close()

async def accept(reader, writer):
    broker, to_broker = await asyncio.open_connection("127.0.0.1", 6379)
    await asyncio.gather(carry(reader, to_broker), carry(broker, writer), return_exceptions=True)

async def main():
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(sys.argv[2])
    server = await asyncio.start_server(accept, "0.0.0.0", int(sys.argv[1]), ssl=context)
    print("listens", flush=True)
    await server.serve_forever()

asyncio.run(main())
"""
"""Takes TLS off in front of the broker, which is built without it."""


@dataclass
class Refused:
    """An actor that could not join."""

    code: int
    output: str


@dataclass
class Story:
    """What was seen."""

    run: Path
    code: int = -1
    actor_code: int = -1
    output: str = ""
    actor_output: str = ""
    trained_without: int = 0
    """Batches when the depot came back."""
    full: Refused = field(default_factory=lambda: Refused(-1, ""))
    stranger: Refused = field(default_factory=lambda: Refused(-1, ""))


class ByTls:
    """The lab's broker and depot by TLS."""

    def __init__(self, lab: Lab, learner: Machine) -> None:
        self._lab = lab
        self._learner = learner
        broker = lab.switch.machines[0]
        self._certificate = _certificate(lab.example / "tls.pem", broker.name, learner.name)
        own = broker.folder / "home" / "tls.pem"
        shutil.copy(self._certificate, own)
        ends = broker.start(sys.executable, "-c", TLS, str(TLS_PORT), str(Path.home() / own.name), name="tls")
        lab.until(lambda: "listens" in ends.output, ends)
        self._url = f"rediss://:{urlsplit(lab.url).password}@{broker.name}:{TLS_PORT}/0"

    def serve(self) -> Command:
        """Offer the run's published files."""
        place = ("--bind", f"0.0.0.0:{DEPOT_PORT}", "--cert", str(self._certificate))
        return self._lab.start(self._learner, "depot", str(self._lab.run), *place)

    def join(self, machine: Machine, cache: str, *, knows: bool = True) -> Command:
        """Start an actor on a machine. `knows`: it is told the authority."""
        shutil.copy(self._certificate, machine.folder / "home" / "ca.pem")
        place = ("--depot", f"https://{self._learner.name}:{DEPOT_PORT}", "--cache", cache)
        authority = ("--ca", str(Path.home() / "ca.pem")) if knows else ()
        join = ("actor", "--run", "digit-walk", "--name", machine.name)
        return self._lab.start(machine, *join, *place, *authority, env={"ISENTROPE_REDIS_URL": self._url})


def _certificate(path: Path, *names: str) -> Path:
    """Write a certificate that is its own authority, with its key, for some hosts."""
    if shutil.which("openssl") is None:
        pytest.skip("certificates need openssl")
    hosts = ",".join(f"DNS:{name}" for name in names)
    kind = ("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2")
    whose = ("-subj", "/CN=lab", "-addext", f"subjectAltName={hosts}")
    files = ("-keyout", str(path), "-out", str(path.with_suffix(".crt")))
    subprocess.run(["openssl", *kind, *whose, *files], check=True, capture_output=True)
    path.write_text(path.read_text() + path.with_suffix(".crt").read_text())
    return path


def _listens(machine: Machine) -> bool:
    return machine.run("bash", "-c", f": > /dev/tcp/localhost/{DEPOT_PORT}").returncode == 0


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory, record_testsuite_property: Callable[[str, object], None]) -> Story:
    with Lab(tmp_path_factory.mktemp("apart")) as lab:
        seen = Story(lab.run)
        (learner,), (guest, full, stranger) = lab.add("learner"), lab.add("guest", "full", "stranger", shared=False)
        tls = ByTls(lab, learner)
        command = lab.start(learner, "train", "run.toml", "actors.count=0", *SMALL, f"learner.batches={BATCHES}")
        lab.until(lambda: any(lab.run.glob("bundle/*")), command)
        depot = tls.serve()
        lab.until(lambda: _listens(learner), command, depot)
        place = str(Path.home() / "small")
        full.run("sh", "-c", f"mkdir {place} && mount -t tmpfs -o size=16k tmpfs {place}")
        without_room, unsure = tls.join(full, place), tls.join(stranger, str(Path.home() / "cache"), knows=False)
        seen.full = Refused(without_room.wait(BOOT_S), without_room.output)
        seen.stranger = Refused(unsure.wait(BOOT_S), unsure.output)

        since = time.time()
        actor = tls.join(guest, str(Path.home() / "cache"))
        lab.until_batch(3, command, depot, actor)
        record_testsuite_property(
            "seconds from the start of an actor that shares nothing to the first batch",
            seconds_to_next_batch(lab.run, since),
        )

        depot.send(signal.SIGKILL)
        depot.wait(BOOT_S)
        told = len(actor.output)
        lab.until(lambda: "the depot does not answer" in actor.output[told:], command, actor)
        seen.trained_without = lab.newest_batch()
        since, depot = time.time(), tls.serve()
        lab.until_batch(seen.trained_without + 1, command, depot, actor)
        record_testsuite_property(
            "seconds to the next batch after the depot is back", seconds_to_next_batch(lab.run, since)
        )
        seen.code, seen.output = command.wait(BOOT_S), lab.output()
        seen.actor_code, seen.actor_output = actor.wait(BOOT_S), actor.output
        return seen


def test_an_actor_that_shares_only_broker_and_depot_by_tls_serves_the_whole_run(story: Story) -> None:
    assert story.code == 0 and story.actor_code == 0, story.output
    assert batches(story.run) == list(range(1, BATCHES + 1))
    assert "serves version" in story.actor_output


def test_a_depot_that_vanishes_is_waited_for(story: Story) -> None:
    assert 3 <= story.trained_without < BATCHES
    assert "started again" not in story.output


def test_an_actor_without_room_for_what_it_fetches_says_so(story: Story) -> None:
    assert story.full.code == 74 and "the disk of full is full" in story.full.output, story.full.output
    assert "Traceback" not in story.full.output


def test_an_actor_that_does_not_know_the_authority_says_so(story: Story) -> None:
    assert story.stranger.code == 77 and "--ca" in story.stranger.output, story.stranger.output
    assert "Traceback" not in story.stranger.output


def test_every_issued_group_was_trained_once_or_retired(story: Story) -> None:
    outcome = json.loads((story.run / "outcome.json").read_text())
    assert outcome["status"] == "finished"
    assert outcome["issued"] == outcome["trained"] + sum(outcome["retired"].values())
    assert outcome["trained"] == sum(line["groups"] for line in lines(story.run / "metrics.jsonl"))
