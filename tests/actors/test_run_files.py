"""Where an actor gets the run's files from, and how long it insists."""

import asyncio
import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from depot_kinds import TOKEN, make_version
from waits import DEADLINE_S
from wire_records import make_spec

from isentrope.actors import fetches, run_files
from isentrope.actors.fetches import Fetch
from isentrope.actors.run_files import Places, RunFiles, Wanted
from isentrope.errors import ConfigError, UnreachableError
from isentrope.rollout.depot.access import Access
from isentrope.rollout.depot.bundle import pack
from isentrope.rollout.depot.fetching import FetchStopped
from isentrope.rollout.depot.server import Address, DepotServer
from isentrope.rollout.wire.spec import Bundle, RunSpec
from isentrope.rollout.wire.weights import Manifest, verify

NOWHERE = "http://127.0.0.1:9"


@pytest.fixture
def run(tmp_path: Path) -> RunSpec:
    """A run that has published a bundle."""
    (tmp_path / "rewards.py").write_text("rule")
    tar, digest = pack({"run/rewards.py": tmp_path / "rewards.py"}, tmp_path / "run" / "bundle")
    bundle = Bundle(digest=digest, size_bytes=tar.stat().st_size, model_dir="model")
    return make_spec("r", bundle=bundle, output_dir=str(tmp_path / "run"), depots=(f"file://{tmp_path / 'run'}",))


@pytest.fixture
def server(run: RunSpec) -> Iterator[DepotServer]:
    with DepotServer(Path(run.output_dir), Address("127.0.0.1", 0), TOKEN) as server:
        yield server


def files_of(spec: RunSpec, tmp_path: Path, *, timeout_s: float = 60.0, depot: str = "") -> RunFiles:
    return RunFiles(spec, Places(depot, tmp_path / "cache", Access(TOKEN)), timeout_s)


HANGS = """
import asyncio, sys, threading, time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from isentrope.actors import fetches, worker
from isentrope.actors.fetches import Fetch
from isentrope.actors.run_files import Places, RunFiles, Wanted
from isentrope.rollout.wire.spec import RunSpec

class Hanging(RunFiles):
    @contextmanager
    def unpacked(self, stop):
        time.sleep(100_000)
        yield

fetches.STOP_S = worker.STOP_S = 0.1
files = Hanging(RunSpec.model_validate_json(sys.argv[1]), Places(cache=Path(sys.argv[2])), 60.0)

async def leave():
    fetch = Fetch(files, Wanted(1, None, ()), lambda: None)
    while threading.active_count() < 2:
        await asyncio.sleep(0.01)
    await fetch.close()
    drain = asyncio.Event()
    asyncio.get_running_loop().call_later(0.1, drain.set)
    assert not await worker.unpack(ExitStack(), files, drain)
    print("left", flush=True)

asyncio.run(leave())
"""
"""An actor that leaves while a version is fetched, and then while its bundle is."""


def test_a_depot_that_hangs_does_not_keep_an_actor_from_leaving(run: RunSpec, tmp_path: Path) -> None:
    """A manifest to which nobody writes, and a bundle whose fetch never ends."""
    (tmp_path / "run" / "weights" / "1").mkdir(parents=True)
    os.mkfifo(tmp_path / "run" / "weights" / "1" / "manifest.json")
    words = [sys.executable, "-c", HANGS, run.model_dump_json(), str(tmp_path / "cache")]
    done = subprocess.run(words, capture_output=True, text=True, timeout=DEADLINE_S, check=False)
    assert done.stdout == "left\n", done.stderr


class StandingDisk(RunFiles):
    """Files on a disk that does not answer until it is let go."""

    def __init__(self) -> None:
        self.goes_on = threading.Event()

    def forget(self, manifest: Manifest) -> None:
        self.goes_on.wait(DEADLINE_S)


def test_files_that_cannot_be_deleted_do_not_keep_an_actor_from_leaving(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The event loop is closed while the disk still hangs."""
    monkeypatch.setattr(fetches, "STOP_S", 0.01)
    disk = StandingDisk()
    asyncio.run(fetches.forget(disk, Manifest.model_construct(version=1)))
    assert not disk.goes_on.is_set() and "hang on their disk" in caplog.text
    disk.goes_on.set()


def elsewhere(spec: RunSpec, *depots: str) -> RunSpec:
    """The spec on a machine that does not see the run's folder."""
    return spec.model_copy(update={"depots": ("file:///no/such/folder", *depots)})


def test_the_folder_is_used_where_it_is_seen_and_else_the_next_depot(
    run: RunSpec, server: DepotServer, tmp_path: Path
) -> None:
    for spec in (run, elsewhere(run, server.url)):
        files = files_of(spec, tmp_path)
        with files.unpacked(threading.Event()):
            assert Path(files.spec.run_folder, "rewards.py").read_text() == "rule"
            assert files.spec.model_dir == str(Path(files.spec.run_folder).parent / "model")


def test_a_folder_of_the_same_path_that_is_another_runs_is_not_used(
    run: RunSpec, server: DepotServer, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    spec = run.model_copy(update={"depots": (f"file://{tmp_path / 'other'}", server.url)})
    files = files_of(spec, tmp_path)
    with files.unpacked(threading.Event()):
        assert Path(files.spec.run_folder, "rewards.py").exists()


def test_without_a_depot_the_missing_folder_and_the_machine_are_named(run: RunSpec, tmp_path: Path) -> None:
    files = files_of(elsewhere(run), tmp_path)
    with pytest.raises(ConfigError, match=r"no folder /no/such/folder of run 'r' on \S+"):
        contextlib.ExitStack().enter_context(files.unpacked(threading.Event()))


def test_a_depot_that_does_not_answer_is_asked_again_for_a_while(
    run: RunSpec, server: DepotServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = files_of(run, tmp_path, timeout_s=0.0, depot=NOWHERE)
    with pytest.raises(UnreachableError, match="does not answer"):
        contextlib.ExitStack().enter_context(files.unpacked(threading.Event()))
    answers = iter([UnreachableError("once"), UnreachableError("twice"), "came"])

    def work(stopped: object) -> str:
        match next(answers):
            case Exception() as error:
                raise error
            case answer:
                return str(answer)

    monkeypatch.setattr(run_files, "MAX_PAUSE_S", 0.0)
    assert files_of(run, tmp_path)._insist(work, threading.Event()) == "came"


def test_an_actor_that_leaves_does_not_wait_for_a_depot(run: RunSpec, tmp_path: Path) -> None:
    stop = threading.Event()
    stop.set()
    with pytest.raises(FetchStopped):
        contextlib.ExitStack().enter_context(files_of(run, tmp_path, depot=NOWHERE).unpacked(stop))


def test_a_version_is_fetched_beside_everything_else(run: RunSpec, server: DepotServer, tmp_path: Path) -> None:
    manifest = make_version(Path(run.output_dir))

    async def load() -> None:
        for announced in (manifest, None):
            files = files_of(elsewhere(run, server.url), tmp_path)
            ended = asyncio.Event()
            fetch = Fetch(files, Wanted(manifest.version, announced, ()), ended.set)
            await asyncio.wait_for(ended.wait(), 60.0)
            assert verify(fetch.result()) and "cache" in fetch.result().folder
            await fetch.close()
        stopped = Fetch(files_of(run, tmp_path, depot=NOWHERE), Wanted(manifest.version, None, ()), lambda: None)
        await stopped.close()
        with pytest.raises(FetchStopped):
            stopped.result()

    asyncio.run(load())
