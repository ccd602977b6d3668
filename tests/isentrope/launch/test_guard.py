"""Nothing that a command has started outlives it, however it ends, and nothing else is touched."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import psutil
import pytest
from waits import is_alive, wait_until, wait_until_gone

COMMAND = """
import os, subprocess, sys, time
from isentrope.launch.guard import Guard

guard = Guard()
started = [
    subprocess.Popen(["sh", "-c", "sleep 100000 & echo $!; exec sleep 100000"], stdout=subprocess.PIPE),
    subprocess.Popen(["sh", "-c", "echo $$; exec sleep 100000"], env={}, stdout=subprocess.PIPE),
]
pids = [process.pid for process in started] + [int(process.stdout.readline()) for process in started]
time.sleep(float(sys.argv[1]))
print(*pids, guard._process.pid, flush=True)
sys.stdin.readline()
guard.close()
print("closed", flush=True)
sys.stdin.readline()
for process in started:
    process.terminate()
print(*(process.wait() for process in started), flush=True)
"""


@pytest.fixture
def bystander() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "100000"]) as process:
        yield process
        process.kill()


def _command(age_s: float) -> tuple[subprocess.Popen[str], list[psutil.Process], psutil.Process]:
    """A command that is so old, what it has started, and its guard."""
    pipe = subprocess.PIPE
    command = subprocess.Popen(
        [sys.executable, "-c", COMMAND, str(age_s)], stdin=pipe, stdout=pipe, text=True, start_new_session=True
    )
    assert command.stdout is not None
    *started, guard = [psutil.Process(int(pid)) for pid in command.stdout.readline().split()]
    return command, started, guard


def test_killed_command_takes_all_it_started_along(bystander: subprocess.Popen[bytes]) -> None:
    """Also what has lost the mark in the environment, if it lived long enough to be noted: how long is tried."""
    for age_s in (3.0, 10.0, 30.0, 90.0):
        command, started, guard = _command(age_s)
        unmarked = started[1]
        os.kill(command.pid, signal.SIGKILL)
        command.wait()
        wait_until_gone(guard, *(process for process in started if process != unmarked))
        if not is_alive(unmarked):
            break
        unmarked.kill()
    else:
        pytest.fail("what has lost the mark was never noted")
    assert bystander.poll() is None


def test_closing_ends_what_lies_deeper_and_leaves_the_commands_own_children_to_it() -> None:
    """They die of the first signal that reaches them: the guard's would have been another than the command's."""
    command, started, _ = _command(age_s=0.0)
    assert command.stdin is not None and command.stdout is not None
    deeper = next(process for process in started if process.ppid() != command.pid)
    command.stdin.write("close\n")
    command.stdin.flush()
    assert command.stdout.readline() == "closed\n"
    wait_until(lambda: deeper.status() == psutil.STATUS_ZOMBIE, "its death; its parent, which lives, has not asked yet")
    command.stdin.write("end\n")
    command.stdin.flush()
    assert command.stdout.readline() == f"{-signal.SIGTERM} {-signal.SIGTERM}\n"
    command.communicate()
