"""Machines on one host: each has a network, files, processes and a host name of its own, and all are on one switch.

Namespaces of the kernel make them, and nothing of them has a name outside: the switch is a bridge in a network
namespace of its own, so that two runs side by side never meet. A machine's first process reads from a pipe that this
process holds: when it ends, however it ends, the kernel ends the machine, and takes its network and mounts away.

A machine sees the host's disk read-only. `/tmp`, the home folder and `/dev/shm` are its own; shared folders are
the same on all that see them. Host names resolve on every machine.
"""

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil
import pytest
from waits import is_alive, wait_until

TOOLS = ("ip", "tc", "unshare", "nsenter", "mount")

NETWORK = "10.77.0"
"""First three numbers of every address."""

NAMESPACES = ("--mount", "--uts", "--ipc", "--net", "--pid")

ROOT = Path(__file__).resolve().parents[2]

_READY = "ready"


def why_not() -> str:
    """Return why no machines can be made here; empty: they can."""
    if missing := [tool for tool in TOOLS if shutil.which(tool) is None]:
        return f"machines need {', '.join(missing)}"
    trial = "ip link add br0 type bridge && mount -t tmpfs tmpfs /mnt"
    command = ["unshare", *NAMESPACES, "--fork", "--kill-child", "sh", "-c", trial]
    tried = subprocess.run(command, capture_output=True, text=True)
    return f"no rights to make machines: {tried.stderr.strip()}" if tried.returncode else ""


class Command:
    """One command on a machine; its output is in a file."""

    def __init__(self, outside: "subprocess.Popen[bytes]", log: Path) -> None:
        self._outside = outside
        self._log = log

    @property
    def output(self) -> str:
        """What it has printed."""
        return self._log.read_text(errors="replace")

    def poll(self) -> int | None:
        """Return its exit code; None: it runs."""
        return self._outside.poll()

    def wait(self, timeout_s: float) -> int:
        """Return its exit code; fail with its output if it still runs."""
        try:
            return self._outside.wait(timeout_s)
        except subprocess.TimeoutExpired:
            pytest.fail(f"still runs after {timeout_s:.0f} s:\n{self.output}")

    def send(self, number: signal.Signals) -> None:
        """Signal it. The process that brought it into the machine stays, and leaves with its exit code."""
        (inside,) = psutil.Process(self._outside.pid).children()
        inside.send_signal(number)


class Machine:
    """One machine, which is running until it is killed."""

    def __init__(self, switch: "Switch", name: str, number: int, shared: Sequence[Path]) -> None:
        self.name = name
        self.address = f"{NETWORK}.{number}"
        self.folder = switch.folder / name
        """Its disk: `tmp` and `home`, and the output of its commands."""
        self.shared = tuple(shared)
        """Folders of the host that it sees."""
        self._switch = switch
        self._port = f"port{number}"
        for part in ("tmp", "home", "output"):
            (self.folder / part).mkdir(parents=True)
        self._holder = _Holder([*NAMESPACES, "--fork", "--kill-child"], self._set_up(), self.folder / "machine.log")
        (first,) = psutil.Process(self._holder.pid).children()
        self._first = first
        self._plug_in()

    @property
    def is_alive(self) -> bool:
        """True until it is killed."""
        return is_alive(self._first)

    def start(
        self, *command: str, env: Mapping[str, str] | None = None, folder: Path | None = None, name: str = ""
    ) -> Command:
        """Start a command on this machine, in `folder`; unset: its home. `name` is that of the file of its output."""
        log = self.folder / "output" / f"{name or Path(command[0]).name}-{len(self.outputs())}.log"
        with log.open("wb") as file:
            outside = subprocess.Popen(
                self._entered(command, folder),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env=self._environment(env),
            )
        return Command(outside, log)

    def run(
        self, *command: str, env: Mapping[str, str] | None = None, folder: Path | None = None, timeout_s: float = 120.0
    ) -> "subprocess.CompletedProcess[str]":
        """Run a command on this machine to its end."""
        return subprocess.run(
            self._entered(command, folder),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env=self._environment(env),
            timeout=timeout_s,
        )

    def outputs(self) -> list[Path]:
        """Return the files with the output of the commands that were started."""
        return sorted((self.folder / "output").iterdir())

    def processes(self, name: str = "") -> list[psutil.Process]:
        """Return its processes whose command line holds `name`."""
        home = _namespace(self._first.pid)
        found = [process for process in psutil.process_iter() if home and _namespace(process.pid) == home]
        return [process for process in found if name in _command_line(process)]

    def kill(self) -> None:
        """Take its power away: no process may say anything, and no connection is closed."""
        self.cut()
        self._first.kill()
        wait_until(lambda: not self.is_alive, f"the end of {self.name}")
        self._holder.close()

    def cut(self) -> None:
        """Pull its cable: packets vanish, nothing is reset."""
        self._switch.run("ip", "link", "set", self._port, "down")

    def heal(self) -> None:
        """Plug its cable in again."""
        self._switch.run("ip", "link", "set", self._port, "up")

    def slow(self, bits_per_s: int) -> None:
        """Bound the speed at which it sends."""
        rate = ("rate", f"{bits_per_s}bit", "burst", "32kbit", "latency", "400ms")
        self._net("tc", "qdisc", "replace", "dev", "eth0", "root", "tbf", *rate)

    def close(self) -> None:
        """End it, if it is alive."""
        self._holder.close()

    def _plug_in(self) -> None:
        peer = ("type", "veth", "peer", "name", self._port, "netns", str(self._switch.pid))
        self._net("ip", "link", "set", "lo", "up")
        self._net("ip", "link", "add", "eth0", *peer)
        self._net("ip", "addr", "add", f"{self.address}/24", "dev", "eth0")
        self._net("ip", "link", "set", "eth0", "up")
        self._switch.run("ip", "link", "set", self._port, "master", "br0", "up")

    def _net(self, *command: str) -> None:
        _run(["nsenter", "-t", str(self._first.pid), "--net", *command])

    def _entered(self, command: Sequence[str], folder: Path | None) -> list[str]:
        inside = f"cd {shlex.quote(str(folder or Path.home()))} && exec {shlex.join(command)}"
        return ["nsenter", "-t", str(self._first.pid), *NAMESPACES, "sh", "-c", inside]

    def _environment(self, more: Mapping[str, str] | None) -> dict[str, str]:
        """Return the variables of a command: none of the host's but those that find Python and its modules."""
        path = f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
        given = {"HOME": str(Path.home()), "PATH": path, "PYTHONPATH": str(ROOT / "src"), "LC_ALL": "C.UTF-8"}
        return given | {"HF_HUB_OFFLINE": "1", "RAY_USAGE_STATS_ENABLED": "0"} | dict(more or {})

    def _set_up(self) -> str:
        """Return the shell commands of its first process: what is kept is bound to a place of its own before `/tmp` and
        the home folder are covered, and back afterwards."""
        own = {"/tmp": self.folder / "tmp", str(Path.home()): self.folder / "home"}
        kept = [Path(sys.prefix), Path(sys.base_prefix), ROOT, *self.shared]
        hidden = [folder for folder in dict.fromkeys(kept) if any(folder.is_relative_to(place) for place in own)]
        lines = ["set -e", "mount --make-rprivate /", f"hostname {self.name}", "mount -t tmpfs tmpfs /mnt"]
        places = {f"/mnt/own{i}": source for i, source in enumerate(own.values())}
        places |= {f"/mnt/kept{i}": source for i, source in enumerate(hidden)}
        for place, source in places.items():
            lines += [f"mkdir {place}", f"mount --bind {shlex.quote(str(source))} {place}"]
        lines += [f"mount --bind {shlex.quote(str(self._switch.hosts))} /etc/hosts", "mount -o remount,bind,ro /"]
        covered = [(f"/mnt/own{i}", place) for i, place in enumerate(own)]
        covered += [(f"/mnt/kept{i}", str(folder)) for i, folder in enumerate(hidden)]
        for source, place in covered:
            lines += [f"mkdir -p {shlex.quote(place)}", f"mount --bind {source} {shlex.quote(place)}"]
        lines += ["mount -t tmpfs tmpfs /dev/shm", "mount -t proc proc /proc"]
        return "\n".join([*lines, f"echo {_READY}", "cat"])


class Switch:
    """A switch with its machines, as a context manager."""

    def __init__(self, folder: Path, shared: Sequence[Path] = ()) -> None:
        """Make a switch without machines.

        Args:
            folder: disks of the machines.
            shared: folders that are the same on all of them, but for those that are added without.
        """
        self.folder = folder
        self.shared = tuple(shared)
        self.hosts = folder / "hosts"
        self.machines: list[Machine] = []
        self.hosts.write_text("127.0.0.1 localhost\n")
        bridge = "set -e; ip link add br0 type bridge; ip link set br0 up; echo ready; cat"
        self._holder = _Holder(["--net"], bridge, folder / "switch.log")

    @property
    def pid(self) -> int:
        """Process that holds its network."""
        return self._holder.pid

    def add(self, name: str, *, shared: bool | Sequence[Path] = True) -> Machine:
        """Add a machine that sees the shared folders, none of them, or the given ones; its name resolves on all."""
        number = 11 + len(self.machines)
        with self.hosts.open("a") as file:
            file.write(f"{NETWORK}.{number} {name}\n")
        seen = (self.shared if shared else ()) if isinstance(shared, bool) else shared
        self.machines.append(Machine(self, name, number, seen))
        return self.machines[-1]

    def run(self, *command: str) -> None:
        """Run a command in its network."""
        _run(["nsenter", "-t", str(self.pid), "--net", *command])

    def close(self) -> None:
        """End all machines and the switch."""
        for machine in self.machines:
            machine.close()
        self._holder.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Holder:
    """Namespaces, and the process in them that lives until its standard input ends."""

    def __init__(self, namespaces: Sequence[str], script: str, log: Path) -> None:
        """Make the namespaces and wait until the script, which must say so, is ready."""
        with log.open("wb") as file:
            self._process = subprocess.Popen(
                ["unshare", *namespaces, "sh", "-c", script], stdin=subprocess.PIPE, stdout=file, stderr=file
            )

        def ready() -> bool:
            said = log.read_text()
            if self._process.poll() is not None:
                pytest.fail(f"no machine could be made: {said}")
            return _READY in said

        wait_until(ready, log.read_text)

    @property
    def pid(self) -> int:
        return self._process.pid

    def close(self) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.wait()


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, f"{shlex.join(command)}: {done.stderr}"


def _namespace(pid: int) -> str:
    """Return the name of a process's own namespace of processes; empty: it has ended."""
    try:
        return os.readlink(f"/proc/{pid}/ns/pid")
    except OSError:
        return ""


def _command_line(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""
