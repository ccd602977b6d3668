"""The machines themselves: what they share, what they do not, and what is left of them."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from machines import Switch, why_not
from waits import wait_until, wait_until_gone

pytestmark = pytest.mark.slow

LISTEN = """
import socket, sys
with socket.create_server(("", 7000)) as server:
    print("listens", flush=True)
    with server.accept()[0] as peer:
        while data := peer.recv(65536):
            print(len(data), flush=True)
"""

SEND = """
import socket, sys, time
with socket.create_connection((sys.argv[1], 7000)) as peer:
    print("connected", flush=True)
    while True:
        peer.sendall(bytes(1000))
        time.sleep(0.05)
"""

HOLD = """
import sys, time
sys.path[:0] = sys.argv[2:]
from pathlib import Path
from machines import Switch
switch = Switch(Path(sys.argv[1]))
machine = switch.add("n1")
machine.start("sleep", "100000")
print(*(process.pid for process in machine.processes()), flush=True)
time.sleep(100000)
"""


@pytest.fixture
def switch(tmp_path: Path) -> Iterator[Switch]:
    if reason := why_not():
        pytest.skip(reason)
    shared = tmp_path / "shared"
    shared.mkdir()
    with Switch(tmp_path, shared=[shared]) as switch:
        yield switch


def test_machines_share_only_the_switch_and_the_shared_folder(switch: Switch, tmp_path: Path) -> None:
    first, second, alone = switch.add("n1"), switch.add("n2"), switch.add("n3", shared=False)
    write = 'echo one > "$HOME/file"; echo one > /tmp/file; echo one > /dev/shm/file; echo one > "$0"; hostname'
    assert first.run("sh", "-c", write, str(tmp_path / "shared" / "file")).stdout == "n1\n"
    read = 'cat "$HOME/file" /tmp/file /dev/shm/file 2>/dev/null; cat "$0"; hostname; echo $$; ! touch /file'
    seen = second.run("sh", "-c", read, str(tmp_path / "shared" / "file"))
    assert seen.stdout.splitlines()[:2] == ["one", "n2"] and seen.returncode == 0, seen.stderr
    assert int(seen.stdout.splitlines()[2]) < 100, "process ids are its own"
    assert alone.run("test", "-e", str(tmp_path / "shared")).returncode == 1
    resolved = first.run("getent", "hosts", "n2")
    assert resolved.stdout.split()[0] == second.address
    assert first.run(sys.executable, "-c", "import isentrope").returncode == 0


def test_a_cut_cable_holds_bytes_back_and_loses_none(switch: Switch) -> None:
    first, second = switch.add("n1"), switch.add("n2")
    receiver = first.start(sys.executable, "-c", LISTEN)
    wait_until(lambda: "listens" in receiver.output, lambda: receiver.output)
    sender = second.start(sys.executable, "-c", SEND, "n1")
    wait_until(lambda: len(receiver.output.splitlines()) > 5, lambda: sender.output)
    second.cut()
    assert second.run("timeout", "2", "bash", "-c", f": > /dev/tcp/{first.address}/7000").returncode != 0
    assert sender.poll() is None and receiver.poll() is None, "nothing was reset"
    before = len(receiver.output)
    second.heal()
    wait_until(lambda: len(receiver.output) > before, lambda: sender.output)
    second.kill()
    assert not second.processes() and receiver.poll() is None, "the other end is not told of a loss of power"


def test_a_slow_machine_sends_at_its_speed(switch: Switch) -> None:
    machine = switch.add("n1")
    machine.slow(2_000_000)
    told = machine.run("tc", "qdisc", "show", "dev", "eth0")
    assert "tbf" in told.stdout and "rate 2Mbit" in told.stdout


def test_nothing_is_left_when_the_tests_are_killed(tmp_path: Path) -> None:
    if reason := why_not():
        pytest.skip(reason)
    command = [sys.executable, "-c", HOLD, str(tmp_path), *sys.path]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as tests:
        assert tests.stdout is not None
        inside = [psutil.Process(int(pid)) for pid in tests.stdout.readline().split()]
        assert len(inside) >= 2
        tests.kill()
    wait_until_gone(*inside)
