"""The private server: it belongs to one folder and one process, keeps its data, and leaves nothing behind."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest
import redis
from waits import DEADLINE_S, wait_until, wait_until_gone

from isentrope.errors import ConfigError, StorageError
from isentrope.redis_server import BESIDE_SOCKET, RedisServer, find_binary, private_url
from isentrope.rollout.broker.access import Role


def test_data_survive_sigkill_and_socket_and_password_stay(server: RedisServer) -> None:
    url, client = server.url, redis.Redis.from_url(server.url)
    client.set("x", "kept")
    os.kill(server.pid, signal.SIGKILL)
    wait_until(lambda: server.pid == 0, "the end of the server")
    server.restart()
    assert server.url == url
    assert redis.Redis.from_url(url).get("x") == b"kept"


def test_a_later_server_on_the_same_folder_has_the_same_data(tmp_path: Path) -> None:
    for run in range(2):
        with RedisServer() as server:
            client = redis.Redis.from_url(server.start(tmp_path))
            assert client.get("x") == (b"kept" if run else None)
            client.set("x", "kept")


def test_a_second_server_on_the_folder_is_refused_until_the_first_has_ended(tmp_path: Path) -> None:
    first, second = RedisServer(), RedisServer()
    with first, second:
        first.start(tmp_path)
        with pytest.raises(StorageError, match="another broker still runs"):
            second.start(tmp_path, deadline_s=0.2)
        second_starts = threading.Thread(target=second.start, args=[tmp_path], kwargs={"deadline_s": DEADLINE_S})
        second_starts.start()
        first.stop()
        second_starts.join()
        assert second.pid


OWNER = """
import os, sys
from pathlib import Path
from isentrope.redis_server import RedisServer
server = RedisServer()
server.start(Path(sys.argv[1]))
sys.stdout.write(f"{server.pid} {server.socket} {server.url}\\n")
sys.stdout.flush()
sys.stdin.read()
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_the_server_ends_with_its_owner_however_that_ends(tmp_path: Path, number: signal.Signals) -> None:
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with owner:
        assert owner.stdout is not None
        pid, path, url = owner.stdout.readline().split()
        place = Path(path)
        redis.Redis.from_url(url).set("x", "kept")
        owner.send_signal(number)
    wait_until_gone(int(pid))
    wait_until(lambda: not place.parent.exists(), "the end of its folder")
    with RedisServer() as later:
        assert redis.Redis.from_url(later.start(tmp_path)).get("x") == b"kept"


def test_stop_removes_socket_and_password_and_may_be_repeated(tmp_path: Path) -> None:
    server = RedisServer()
    server.start(tmp_path / "data")
    home, pid = server.socket.parent, server.pid
    assert psutil.Process(pid).children() == []
    server.stop()
    server.stop()
    assert not home.exists() and not psutil.pid_exists(pid) and server.pid == 0
    with pytest.raises(StorageError, match="no private broker"):
        private_url(home / "redis.sock", Role.VIEWER)


def test_only_this_user_gets_in_and_passwords_are_in_no_argument_list(server: RedisServer) -> None:
    home = server.socket.parent
    assert home.stat().st_mode & 0o777 == 0o700
    assert server.socket.stat().st_mode & 0o777 == 0o700
    assert {path.name for path in home.iterdir()} == {"redis.sock", "viewer", "operator"}
    for role in BESIDE_SOCKET:
        assert (home / role).stat().st_mode & 0o777 == 0o600
    process = psutil.Process(server.pid)
    passwords = [urlsplit(url).password for url in (server.url, *(server.url_of(role) for role in Role))]
    assert all(passwords) and len(set(passwords)) == len(passwords)
    for password in passwords:
        assert not any(str(password) in part for part in [*process.cmdline(), *process.environ().values()])
    assert process.net_connections(kind="inet") == []


def test_it_is_what_a_run_needs(server: RedisServer) -> None:
    client = redis.Redis.from_url(server.url)
    assert client.config_get("appendonly") == {"appendonly": "yes"}
    assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
    assert client.config_get("port") == {"port": "0"}


def test_a_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    (tmp_path / "appendonly.aof").write_bytes(b"damaged")
    with RedisServer() as server, pytest.raises(StorageError, match="the private broker ended") as caught:
        server.start(tmp_path, deadline_s=DEADLINE_S)
    assert caught.value.where == str(tmp_path / "redis.log")
    assert "AOF" in caught.value.what or "Bad file format" in caught.value.what


def test_a_path_too_long_for_a_socket_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = tmp_path / ("d" * 100)
    deep.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(deep))
    with RedisServer() as server, pytest.raises(ConfigError, match="too long a path"):
        server.start(tmp_path / "data")
    assert list(deep.iterdir()) == []


def test_a_folder_with_quotes_and_spaces_is_no_obstacle(tmp_path: Path) -> None:
    folder = tmp_path / 'a "strange" \\ folder'
    with RedisServer() as server:
        assert redis.Redis.from_url(server.start(folder)).ping()
    assert (folder / "redis.log").exists()


def test_the_bundled_server_is_found_and_missing_ones_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert os.access(find_binary(), os.X_OK)
    monkeypatch.setattr("os.get_exec_path", list)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="no Redis server found"):
        find_binary()
