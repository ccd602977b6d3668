"""A child ends with its parent, and what it has started with the child, however they end."""

import os
import signal
import subprocess
import sys

import pytest
from waits import is_alive, wait_until_gone

CHILD = """
import sys, time
from isentrope.actors.die_with_parent import end_with_parent
end_with_parent(int(sys.argv[1]))
print("tied", flush=True)
time.sleep(100_000)
"""

PARENT = """
import os, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", sys.argv[1], str(os.getpid())], stdout=subprocess.PIPE)
child.stdout.readline()
print(child.pid, flush=True)
sys.stdin.read()
"""


def test_a_child_ends_when_its_parent_is_killed() -> None:
    command = [sys.executable, "-c", PARENT, CHILD]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert is_alive(child)
        parent.kill()
        wait_until_gone(child)


def test_a_child_whose_parent_is_gone_already_ends_at_once() -> None:
    command = [sys.executable, "-c", CHILD, str(os.getpid() + 1)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout) == (-signal.SIGKILL, "")


LEADER = """
import os, subprocess, sys, time
from isentrope.actors.die_with_parent import end_with_parent, lead_session
end_with_parent(int(sys.argv[1]))
lead_session()
try:
    while os.wait(): pass  # a process beside those that the code has started would be waited for
except ChildProcessError:
    started = subprocess.Popen(["sleep", "100000"])
print(os.getpid(), started.pid, flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("end", ["it ends", "it is killed", "its parent is killed"])
def test_what_a_process_has_started_ends_with_it(end: str) -> None:
    child = "subprocess.Popen([sys.executable, '-c', sys.argv[1], str(os.getpid())]).wait()"
    command = [sys.executable, "-c", f"import os, subprocess, sys\n{child}", LEADER]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdin is not None and parent.stdout is not None
        leader, started = map(int, parent.stdout.readline().split())
        assert is_alive(leader) and is_alive(started)
        match end:
            case "it ends":
                parent.stdin.close()
            case "it is killed":
                os.kill(leader, signal.SIGKILL)
            case _:
                parent.kill()
        wait_until_gone(leader, started)
