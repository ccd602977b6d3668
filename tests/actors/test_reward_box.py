"""Hostile rewards, without a sandbox and in one: what they write, start, take and kill stays theirs."""

import asyncio
import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from bubblewrap import bubblewrap
from reward_driver import Driver, data, driving
from waits import wait_until

from isentrope.actors import reward_box, reward_keeper, reward_process
from isentrope.actors.reward_box import Box
from isentrope.actors.scoring import Scorer
from isentrope.errors import ConfigError

HOSTILE = """
import mmap, os, signal, socket, subprocess, sys, time

def f(completions, **columns):
    return [obey(completion) for completion in completions]

def obey(text):
    word, _, argument = text.partition(" ")
    match word:
        case "daemon": daemon(argument)
        case "copy": os.fork()
        case "crowd": crowd(int(argument))
        case "take": bytearray(int(argument))
        case "take_shared": take_shared(int(argument))
        case "write": write(argument.encode())
        case "frame": write(len(argument).to_bytes(8, "big") + argument.encode())
        case "close": os.closerange(3, 64)
        case "nested": return nested()
        case "nan": return float("nan")
        case "huge": return 10**400
        case "bomb": return {"reward": 1.0, "answer": Bomb("safe")}
        case "variable": return {"reward": 1.0, "answer": os.environ.get(argument, "unset")}
        case "first_environment": return {"reward": 1.0, "answer": str(argument.encode() in environ())}
        case "kill_group": os.killpg(os.getpgid(os.getppid()), 9); time.sleep(100_000)
        case "stop_parent": os.kill(os.getppid(), 19); time.sleep(100_000)
        case "leave": os._exit(int(argument))
        case "hang": time.sleep(100_000)
        case "read": return {"reward": 1.0, "answer": open(argument).read()}
        case "overwrite": open(argument, "w").write("mine")
        case "connect": socket.create_connection(("127.0.0.1", int(argument)), timeout=10)
        case "neighbours": return float(sum(name.isdigit() for name in os.listdir("/proc")))
    return float(len(text))

class Bomb(str):
    def __reduce__(self):
        return (exec, ("import os; open(os.environ['HOME'] + '/exploded', 'w').close()",))

def daemon(seconds):
    "Leaves a process in a session of its own, whose parent is gone."
    if not os.fork():
        os.setsid()
        subprocess.Popen(["sleep", seconds])
        os._exit(0)
    os.wait()

def crowd(count):
    for _ in range(count):
        if not os.fork(): time.sleep(100_000)
    time.sleep(100_000)

def take_shared(count):
    "Takes memory that counts for no process alone."
    shared = mmap.mmap(-1, count)
    for place in range(0, count, 4096): shared[place] = 1
    time.sleep(100_000)

def write(message):
    "Writes to whatever is open."
    for descriptor in range(3, 64):
        try: os.write(descriptor, message)
        except OSError: pass

def nested():
    value = []
    for _ in range(100_000): value = [value]
    return value

def environ():
    return open("/proc/self/environ", "rb").read()
"""

SECRET = "ISENTROPE_TEST_SECRET"
KEY = "ISENTROPE_TEST_KEY"
KEEPER = reward_keeper.__name__


@pytest.fixture(scope="module", params=["none", "bwrap"])
def sandbox(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each value of `data.sandbox`."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "bwrap":
            _require_bubblewrap(patch)
        yield request.param


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    (folder / "hostile.py").write_text(HOSTILE)
    return folder


@pytest.fixture(scope="module")
def hostile(sandbox: str, folder: Path) -> Iterator[Driver]:
    """A scorer of hostile rewards."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(SECRET, "pass-phrase")
        patch.setenv(KEY, "told")
        patch.setenv("HOME", str(folder))
        config = data("hostile:f", sandbox=sandbox, reward_memory_gib=0.5, reward_variables=[KEY])
        with driving(config, folder) as driver:
            yield driver


@pytest.fixture(autouse=True)
def still_serving(request: pytest.FixtureRequest) -> Iterator[None]:
    """After whatever a reward does, the next call is answered."""
    yield
    if "hostile" in request.fixturenames:
        assert request.getfixturevalue("hostile").rewards("a", "bb") == [1.0, 2.0]


def kept() -> list[psutil.Process]:
    """Return the keeper that this process has started, and all processes below it."""
    children = psutil.process_iter(["cmdline", "ppid"])
    keepers = [each for each in children if each.info["ppid"] == os.getpid() and KEEPER in (each.info["cmdline"] or ())]
    return [each for keeper in keepers for each in (keeper, *keeper.children(recursive=True))]


def running(*words: str) -> list[psutil.Process]:
    """Return the live processes with this command."""
    found = psutil.process_iter(["cmdline", "status"])
    return [each for each in found if each.info["cmdline"] == [*words] and each.info["status"] != psutil.STATUS_ZOMBIE]


@pytest.mark.parametrize("end", ["leave 0", "leave 3", "hang"])
def test_a_daemon_that_a_reward_has_left_ends_with_its_process(hostile: Driver, end: str) -> None:
    marked = str(10_000_000 + os.getpid() * 10 + len(end))
    assert hostile.rewards(f"daemon {marked}") == [float(len(f"daemon {marked}"))]
    wait_until(lambda: running("sleep", marked), "the daemon")
    if end == "hang":
        hostile.late(end)
    else:
        hostile.refusal(end)
    wait_until(lambda: not running("sleep", marked), "the end of the daemon")


def test_a_copy_of_the_process_answers_no_call(hostile: Driver) -> None:
    assert hostile.rewards("copy") == [4.0]
    assert hostile.rewards("x" * 7) == [7.0]


def test_too_many_processes_are_ended(hostile: Driver, sandbox: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reward_box, "MAX_PROCESSES", 20)
    hostile.refusal("leave 0")  # the limit holds for processes that are started from now on
    what = hostile.refusal("crowd 50").what
    monkeypatch.undo()
    hostile.rewards("a")
    if what.startswith("the reward took"):
        assert re.search(r"took \d+ processes, more than 20, and was killed", what)
        hostile.refusal("leave 0")
    else:
        assert "raised BlockingIOError" in what and not reward_box.uncounted(data(sandbox=sandbox))


def test_memory_that_one_process_asks_for_is_refused_to_it(hostile: Driver) -> None:
    error = hostile.refusal(f"take {1 << 30}")
    assert "raised MemoryError" in error.what and "data.reward_memory_gib" in error.fix


def test_memory_that_counts_for_no_process_alone_is_limited_too(hostile: Driver) -> None:
    assert re.search(r"took 0\.\d GiB of memory, more than 0\.5", hostile.refusal(f"take_shared {700 << 20}").what)


@pytest.mark.parametrize(
    "order",
    [
        "write garbage that begins with no length",
        "write \x00",
        "frame not json",
        'frame {"call": 1}',
        'frame {"call": 0, "outcomes": [{"reward": 1e999, "parts": {}, "answer": ""}]}',
        "frame " + "[" * 10_000,
    ],
    ids=["text", "part of a length", "no JSON", "another call", "infinity", "nested"],
)
def test_what_is_not_an_answer_fails_the_call_and_ends_the_process(hostile: Driver, order: str) -> None:
    assert "wrote into the pipe" in hostile.refusal(order).what


def test_a_closed_pipe_fails_the_call(hostile: Driver) -> None:
    assert "exit code 1" in hostile.refusal("close").what


@pytest.mark.parametrize("order", ["nan", "huge", "nested"])
def test_what_is_not_a_reward_is_refused(hostile: Driver, order: str) -> None:
    assert "returned" in hostile.refusal(order).what or "RecursionError" in hostile.refusal(order).what


def test_a_returned_object_runs_nothing_in_the_actor(hostile: Driver, folder: Path) -> None:
    assert hostile.answers("bomb") == ["safe"]
    assert not (folder / "exploded").exists()


def test_a_reward_sees_only_the_variables_that_it_was_given(hostile: Driver) -> None:
    assert hostile.answers(f"variable {SECRET}") == ["unset"]
    assert hostile.answers("first_environment pass-phrase") == ["False"]
    assert hostile.answers(f"variable {KEY}") == ["told"]
    assert hostile.answers("variable PATH") != ["unset"]


def test_a_reward_that_kills_what_is_above_it_ends_itself_alone(hostile: Driver) -> None:
    assert "ended with the process that watches it" in hostile.refusal("kill_group").what


def test_a_reward_that_stops_what_watches_it_is_killed(hostile: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reward_process, "END_S", 1.0)
    before = kept()
    assert before
    assert "took more than 1 s" in hostile.late("stop_parent").what
    hostile.rewards("a")
    wait_until(lambda: not any(each.is_running() for each in before), "the end of all of them")


@pytest.fixture
def boxed(sandbox: str, hostile: Driver) -> Driver:
    """A scorer of hostile rewards in a sandbox."""
    if sandbox == "none":
        pytest.skip("without a sandbox")
    return hostile


def test_a_sandbox_has_no_network(boxed: Driver) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert "OSError" in boxed.refusal(f"connect {server.getsockname()[1]}").what.replace(
            "ConnectionRefusedError", "OSError"
        )


def test_a_sandbox_shows_the_runs_folder_and_no_other(boxed: Driver, folder: Path, tmp_path: Path) -> None:
    (folder / "words.txt").write_text("own")
    (tmp_path / "words.txt").write_text("another's")
    assert boxed.answers(f"read {folder / 'words.txt'}") == ["own"]
    assert "FileNotFoundError" in boxed.refusal(f"read {tmp_path / 'words.txt'}").what
    assert "FileNotFoundError" in boxed.refusal("read /etc/shadow").what


@pytest.mark.parametrize("place", ["hostile.py", "/usr/new", "/new", "/dev/new"])
def test_a_sandbox_can_be_written_in_tmp_alone(boxed: Driver, folder: Path, place: str) -> None:
    assert "OSError: [Errno 30]" in boxed.refusal(f"overwrite {folder / place}").what
    assert (folder / "hostile.py").read_text() == HOSTILE
    assert boxed.rewards("overwrite /tmp/new") == [18.0]


def test_a_sandbox_shows_its_own_processes_alone(boxed: Driver) -> None:
    assert boxed.rewards("neighbours")[0] <= 4


def test_a_further_folder_can_be_read_in_a_sandbox(sandbox: str, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("another's")
    config = data("hostile:f", sandbox=sandbox, sandbox_folders=[str(tmp_path)])
    with driving(config, folder) as driver:
        assert driver.answers(f"read {tmp_path / 'words.txt'}") == ["another's"]


def entered(folder: Path) -> None:
    """Enter a scorer with a sandbox."""

    async def enter() -> None:
        async with Scorer(data("hostile:f", sandbox="bwrap"), str(folder)):
            pass

    asyncio.run(enter())


def test_a_sandbox_that_is_missing_is_refused_at_the_start(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="there is no program bwrap") as caught:
        entered(folder)
    assert caught.value.exit_code == 64 and "bubblewrap" in caught.value.fix


def test_a_sandbox_that_cannot_be_made_is_refused_with_the_reason(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "bwrap"
    program.write_text("#!/bin/sh\necho 'bwrap: No permissions to create new namespace' >&2\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    with pytest.raises(ConfigError, match="No permissions to create new namespace") as caught:
        entered(folder)
    assert caught.value.exit_code == 64


@pytest.mark.parametrize(
    ("sandbox", "user", "release", "reason"),
    [
        ("none", 1000, "6.1.0-18-amd64", "all others of the user"),
        ("bwrap", 0, "6.1.0-18-amd64", "root"),
        ("bwrap", 1000, "5.10.0-9-amd64", "older than 5.14"),
        ("bwrap", 1000, "5.14.21+", ""),
    ],
)
def test_a_machine_that_cannot_limit_processes_says_so(
    monkeypatch: pytest.MonkeyPatch, sandbox: str, user: int, release: str, reason: str
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: user)
    monkeypatch.setattr(os, "uname", lambda: os.uname_result(("Linux", "box", release, "", "")))
    notes = list(reward_box.doubts(data(sandbox=sandbox)))
    assert [reason in note for note in notes] == ([True] if reason else [])
    assert Box(data(sandbox=sandbox), Path()).limits.kernel_counts == (not reason)


def _require_bubblewrap(patch: pytest.MonkeyPatch) -> None:
    if not (place := bubblewrap()):
        pytest.skip("there is no bubblewrap that makes sandboxes here, and its package cannot be fetched")
    patch.setenv("PATH", f"{place}{os.pathsep}{os.environ['PATH']}")
