"""The connection: what is refused at the start, what is retried, what a changed or a full server means."""

import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis
from waits import DEADLINE_S, wait_until
from wire_records import ASYNC, answer, make_actor_port, make_spec

from isentrope.errors import AccessError, BrokerChangedError, ConfigError, UnreachableError
from isentrope.redis_server import RedisServer, find_binary
from isentrope.rollout.broker.actor_port import PublishResult
from isentrope.rollout.broker.answers import BrokerFullError
from isentrope.rollout.broker.connection import Broker, describe
from isentrope.rollout.broker.learner_port import LearnerPort


@pytest.fixture
def plain(tmp_path: Path) -> Iterator[Callable[..., int]]:
    """Starts servers on TCP with given options, returns their port."""
    running: list[subprocess.Popen[bytes]] = []

    def start(*options: str) -> int:
        port = free_port()
        command = [str(find_binary()), "--port", str(port), "--bind", "127.0.0.1", "--save", "", *options]
        running.append(subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL))
        wait_for(port)
        return port

    yield start
    for process in running:
        process.kill()
        process.wait()


def free_port() -> int:
    """A free port that leaves room above for a cluster's second one."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
            if port < 55_000:
                return port


def wait_for(port: int) -> None:
    client = redis.Redis(port=port)

    def answers() -> bool:
        try:
            return bool(client.ping())
        except redis.AuthenticationError:
            return True
        except redis.ConnectionError:
            return False

    wait_until(answers, f"a server on port {port}")


# --- preflight


def test_a_closed_port_is_unreachable_after_the_deadline_and_names_the_place() -> None:
    port = free_port()
    started = time.monotonic()
    with pytest.raises(UnreachableError, match=f"cannot reach redis at localhost:{port}"):
        Broker.connect(f"redis://localhost:{port}", "r", deadline_s=0.3)
    assert time.monotonic() - started >= 0.3


@pytest.mark.parametrize(
    "url", ["http://localhost", "localhost:6379", "redis://:secret@host:port/x", "redis://h:99999999"]
)
def test_a_url_that_cannot_be_parsed_is_refused_without_being_quoted(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Broker.connect(url, "r", deadline_s=0.3)
    assert "secret" not in str(caught.value) and caught.value.fix


def test_a_wrong_password_is_refused_at_once_and_never_shown(
    server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(AccessError, match="refuses user 'default' or its password") as caught:
        Broker.connect(f"unix://:wrongword@{server.socket}", "r", deadline_s=DEADLINE_S)
    assert "trying again" not in caplog.text
    assert "wrongword" not in str(caught.value)


def test_a_missing_password_is_an_access_error(server: RedisServer) -> None:
    with pytest.raises(AccessError):
        Broker.connect(f"unix://{server.socket}", "r")


def test_a_server_elsewhere_without_a_password_is_refused_before_it_is_asked() -> None:
    with pytest.raises(ConfigError, match="no password") as caught:
        Broker.connect("redis://192.0.2.1:6379", "r", deadline_s=0.3)
    assert "insecure" in caught.value.fix
    with pytest.raises(UnreachableError):
        Broker.connect("redis://192.0.2.1:6379", "r", deadline_s=0.1, insecure=True)


def test_a_server_that_may_evict_keys_is_refused(plain: Callable[..., int]) -> None:
    port = plain("--maxmemory-policy", "allkeys-lru")
    with pytest.raises(ConfigError, match="may evict keys: maxmemory-policy is allkeys-lru"):
        Broker.connect(f"redis://127.0.0.1:{port}", "r")


def test_a_cluster_is_refused(plain: Callable[..., int]) -> None:
    port = plain("--cluster-enabled", "yes")
    with pytest.raises(ConfigError, match="is a cluster"):
        Broker.connect(f"redis://127.0.0.1:{port}", "r")


@pytest.mark.parametrize(("version", "allowed"), [("6.0.16", False), ("6.2.0", True), ("10.0.0", True)])
def test_a_server_that_is_too_old_is_refused(
    plain: Callable[..., int], monkeypatch: pytest.MonkeyPatch, version: str, allowed: bool
) -> None:
    info = redis.Redis.info
    monkeypatch.setattr(
        redis.Redis, "info", lambda client, *section: {**info(client, *section), "redis_version": version}
    )
    url = f"redis://127.0.0.1:{plain()}"
    if allowed:
        return Broker.connect(url, "r").close()
    with pytest.raises(ConfigError, match=f"is {version}") as refused:
        Broker.connect(url, "r")
    assert "6.2 or newer" in refused.value.fix


def test_a_replica_is_refused_and_names_its_primary(plain: Callable[..., int]) -> None:
    port = plain("--replicaof", "127.0.0.1", "1")
    with pytest.raises(UnreachableError, match=r"is a replica of 127\.0\.0\.1:1"):
        Broker.connect(f"redis://127.0.0.1:{port}", "r")


def test_a_server_without_append_only_file_is_warned_about(
    plain: Callable[..., int], caplog: pytest.LogCaptureFixture
) -> None:
    Broker.connect(f"redis://127.0.0.1:{plain()}", "r").close()
    assert "no append-only file" in caplog.text


def test_a_place_is_described_without_secrets() -> None:
    assert describe("redis://user:secret@host:1") == "host:1"
    assert describe("unix://:secret@/tmp/redis.sock?db=0") == "/tmp/redis.sock"


# --- while running


def test_calls_wait_for_a_server_that_restarts(server: RedisServer) -> None:
    broker = Broker.connect(server.url, "r", deadline_s=DEADLINE_S)
    failed = threading.Event()
    os.kill(server.pid, signal.SIGKILL)
    wait_until(lambda: server.pid == 0, "the end of the server")

    def restart() -> None:
        failed.wait()
        server.restart()

    def ping(client: "redis.Redis") -> bool:
        try:
            return bool(client.ping())
        except redis.ConnectionError:
            failed.set()
            raise

    restarting = threading.Thread(target=restart)
    restarting.start()
    assert broker.run(ping)
    restarting.join()


def test_scripts_come_back_after_a_restart(server: RedisServer) -> None:
    learner = LearnerPort.fence(Broker.connect(server.url, "r"), 1, 0, 0, make_spec("r"), ASYNC)
    learner.issue(trained_batches=0, retired=0, limit=4)
    actor = make_actor_port(Broker.connect(server.url, "r"), "a1")
    server.restart()
    assert len(actor.take(2, 0.0)) == 2


def test_a_pinned_connection_refuses_another_process_until_it_is_pinned_again(server: RedisServer) -> None:
    broker = Broker.connect(server.url, "r")
    broker.pin()
    server.restart()
    for _ in range(3):
        with pytest.raises(BrokerChangedError, match="another process"):
            broker.run(lambda client: client.set("zombie", 1))
    broker.pin()
    assert broker.run(lambda client: client.get("zombie")) is None


def test_a_full_server_refuses_and_changes_nothing(tmp_path: Path) -> None:
    with RedisServer() as server:
        url = server.start(tmp_path / "redis")
        learner = LearnerPort.fence(Broker.connect(url, "r"), 1, 0, 0, make_spec("r"), ASYNC)
        learner.issue(trained_batches=0, retired=0, limit=4)
        actor = make_actor_port(Broker.connect(url, "r"), "a1")
        order = actor.take(1, 0.0)[0]
        admin = redis.Redis.from_url(url)
        admin.config_set("maxmemory", 1)
        before = snapshot(admin)
        with pytest.raises(BrokerFullError, match="is full"):
            learner.broker.run(lambda client: client.set("x", 1))
        assert actor.publish(answer(order), order) is PublishResult.FULL
        assert learner.issue(trained_batches=0, retired=0, limit=8) == 4
        assert snapshot(admin) == before
        admin.config_set("maxmemory", 0)
        assert actor.publish(answer(order), order) is PublishResult.DONE


def snapshot(client: "redis.Redis") -> dict[bytes, bytes | None]:
    return {key: client.dump(key) for key in sorted(client.keys("*"))}  # type: ignore[union-attr]


def test_a_full_disk_is_a_full_server(tmp_path: Path) -> None:
    """Redis answers MISCONF while its append-only file cannot be written; a missing folder stands for a full disk."""
    with RedisServer() as server:
        folder = tmp_path / "redis"
        broker = Broker.connect(server.start(folder), "r")
        broker.run(lambda client: client.config_set("stop-writes-on-bgsave-error", "yes"))
        broker.run(lambda client: client.config_set("save", "3600 1"))
        broker.run(lambda client: client.set("x", 1))
        shutil.rmtree(folder)
        broker.run(lambda client: client.bgsave())

        def refused() -> str:
            try:
                broker.run(lambda client: client.set("x", 1))
            except BrokerFullError as error:
                return error.what
            return ""

        assert "MISCONF" in wait_until(refused, "a write that is refused")
        broker.run(lambda client: client.config_set("save", ""))  # lets the server end


def test_parallel_calls_share_few_connections(redis_server: str, run_name: str) -> None:
    broker = Broker.connect(redis_server, run_name)
    replies: list[bool] = []
    threads = [
        threading.Thread(target=lambda: replies.append(broker.run(lambda client: client.ping()))) for _ in range(40)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert replies == [True] * 40
