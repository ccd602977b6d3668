"""Nothing that a command has started outlives it, however it ends, and nothing else is touched."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

COMMAND = """
import os, subprocess, sys, time
from isentrope.launch.guard import Guard

guard = Guard()
started = [
    subprocess.Popen(["sh", "-c", "sleep 300 & echo $!; exec sleep 300"], stdout=subprocess.PIPE),
    subprocess.Popen(["sh", "-c", "echo $$; exec sleep 300"], env={}, stdout=subprocess.PIPE),
]
pids = [process.pid for process in started] + [int(process.stdout.readline()) for process in started]
time.sleep(float(sys.argv[1]))
print(*pids, flush=True)
sys.stdin.readline()
guard.close()
print("closed", flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def bystander() -> subprocess.Popen[bytes]:
    return subprocess.Popen(["sleep", "300"])


def _command(age_s: float) -> tuple[subprocess.Popen[str], list[psutil.Process]]:
    pipe = subprocess.PIPE
    command = subprocess.Popen(
        [sys.executable, "-c", COMMAND, str(age_s)], stdin=pipe, stdout=pipe, text=True, start_new_session=True
    )
    assert command.stdout is not None
    return command, [psutil.Process(int(pid)) for pid in command.stdout.readline().split()]


def test_killed_command_takes_all_it_started_along(bystander: subprocess.Popen[bytes]) -> None:
    """Also what has lost the mark in the environment, if it lived long enough to be noted."""
    command, started = _command(age_s=3.0)
    os.kill(command.pid, signal.SIGKILL)
    command.wait()
    _, alive = psutil.wait_procs(started, timeout=10.0)
    assert alive == []
    assert bystander.poll() is None
    bystander.kill()
    bystander.wait()


def test_closing_ends_what_lies_deeper_and_leaves_the_commands_own_children_to_it() -> None:
    command, started = _command(age_s=0.0)
    assert command.stdin is not None and command.stdout is not None
    deeper = next(process for process in started if process.ppid() != command.pid)
    command.stdin.write("close\n")
    command.stdin.flush()
    assert command.stdout.readline() == "closed\n"
    assert deeper.status() == psutil.STATUS_ZOMBIE  # dead, and its parent, which lives, has not asked yet
    children = [process for process in started if process != deeper]
    time.sleep(0.2)
    assert all(process.is_running() for process in children)
    command.kill()
    command.wait()
    for process in children:
        process.kill()
