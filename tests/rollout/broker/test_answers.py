"""Answers that another moment would not give are waited for, on both generations of servers, also out of a script."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis
from redis import exceptions
from servers import BOTH, served
from waits import DEADLINE_S, wait_until
from wire_records import ASYNC, make_spec

from isentrope.errors import AccessError, InternalError, UnreachableError
from isentrope.redis_server import RedisServer
from isentrope.rollout.broker.answers import PASSING, BrokerFullError, passing, translate
from isentrope.rollout.broker.connection import Broker
from isentrope.rollout.broker.learner_port import LearnerPort

WRAPPED = "Error running script (call to f_0123): @user_script:12: @user_script: 12: -{} something is so. "
SCRIPT = "this is what a script of 7.0 says: {} something is so. script: f_0123, on @user_script:12."

Admin = Callable[..., object]


@pytest.fixture(params=BOTH)
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RedisServer]:
    with served(request.param, tmp_path / "redis") as server:
        yield server


@pytest.fixture
def learner(server: RedisServer) -> LearnerPort:
    broker = Broker.connect(server.url, "r", deadline_s=DEADLINE_S)
    return LearnerPort.fence(broker, 1, 0, 0, make_spec("r"), ASYNC)


def answered_after(call: Callable[[], object], refuses: Callable[[], bool], mend: Admin) -> None:
    """Check that `call`, which the server refuses, ends once the cause is mended, and not before."""
    wait_until(refuses, "a server that refuses")
    done = threading.Event()
    errors: list[BaseException] = []

    def work() -> None:
        try:
            call()
        except BaseException as error:
            errors.append(error)
        done.set()

    thread = threading.Thread(target=work)
    thread.start()
    assert not done.wait(0.3), errors
    mend()
    assert done.wait(DEADLINE_S) and not errors, errors
    thread.join()


def refused(client: "redis.Redis") -> bool:
    try:
        client.set("probe", 1)
    except redis.ResponseError:
        return True
    return False


def test_a_primary_that_is_a_replica_for_a_while_is_waited_for(server: RedisServer, learner: LearnerPort) -> None:
    admin = redis.Redis.from_url(server.url)
    admin.execute_command("REPLICAOF", "127.0.0.1", "1")
    promote = lambda: admin.execute_command("REPLICAOF", "NO", "ONE")  # noqa: E731
    answered_after(lambda: learner.plan(1, b"plan"), lambda: refused(admin), promote)
    assert learner.plans() == {1: b"plan"}


def test_a_replica_that_does_not_serve_stale_data_is_waited_for(server: RedisServer, learner: LearnerPort) -> None:
    admin = redis.Redis.from_url(server.url)
    admin.config_set("replica-serve-stale-data", "no")
    admin.execute_command("REPLICAOF", "127.0.0.1", "1")
    promote = lambda: admin.execute_command("REPLICAOF", "NO", "ONE")  # noqa: E731
    answered_after(learner.counters, lambda: refused(admin), promote)


def test_a_server_with_too_few_replicas_is_waited_for(server: RedisServer, learner: LearnerPort) -> None:
    admin = redis.Redis.from_url(server.url)
    admin.config_set("min-replicas-to-write", 1)
    answered_after(
        lambda: learner.plan(1, b"plan"), lambda: refused(admin), lambda: admin.config_set("min-replicas-to-write", 0)
    )


def test_a_server_that_somebodys_script_keeps_busy_is_waited_for(server: RedisServer, learner: LearnerPort) -> None:
    admin = redis.Redis.from_url(server.url)
    admin.config_set("lua-time-limit", 1)

    def run_for_ever() -> None:
        with pytest.raises(redis.RedisError):
            redis.Redis.from_url(server.url).eval("while true do end", 0)

    endless = threading.Thread(target=run_for_ever)
    endless.start()
    answered_after(lambda: learner.plan(1, b"plan"), lambda: refused(admin), admin.script_kill)
    endless.join()


def test_a_server_that_never_serves_again_is_named_at_the_deadline(server: RedisServer, learner: LearnerPort) -> None:
    redis.Redis.from_url(server.url).execute_command("REPLICAOF", "127.0.0.1", "1")
    learner.broker.deadline_s = 0.2
    with pytest.raises(UnreachableError, match="it is a read-only replica") as caught:
        learner.plan(1, b"plan")
    assert learner.broker.place in caught.value.what and caught.value.exit_code == 69


@pytest.mark.parametrize("word", PASSING)
@pytest.mark.parametrize("text", ["{} something is so.", WRAPPED, SCRIPT])
def test_the_words_are_found_wherever_a_server_puts_them(word: str, text: str) -> None:
    error = redis.ResponseError(text.format(word))
    assert passing(error)
    found = translate(error, "here", "r", 5.0)
    assert isinstance(found, UnreachableError) and PASSING[word] in found.what and "5 s" in found.what


@pytest.mark.parametrize(
    ("kind", "word"),
    [
        (exceptions.BusyLoadingError, "LOADING"),
        (exceptions.ReadOnlyError, "READONLY"),
        (exceptions.MasterDownError, "MASTERDOWN"),
        (exceptions.ClusterDownError, "CLUSTERDOWN"),
        (exceptions.TryAgainError, "TRYAGAIN"),
    ],
)
def test_the_clients_own_kinds_are_known_without_their_word(kind: type[redis.RedisError], word: str) -> None:
    assert passing(kind("without it")) and PASSING[word] in translate(kind("without it"), "here", "r", 5.0).what


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (redis.ResponseError("BUSYGROUP Consumer Group name already exists"), InternalError),
        (redis.ResponseError("ERR value is not an integer or out of range"), InternalError),
        (redis.ResponseError(WRAPPED.format("OOM command not allowed when")), BrokerFullError),
        (exceptions.OutOfMemoryError("command not allowed"), BrokerFullError),
        (redis.ResponseError("MISCONF Errors writing to the AOF file"), BrokerFullError),
        (exceptions.NoPermissionError("this user has no permissions"), AccessError),
        (redis.AuthenticationError("invalid username-password pair"), AccessError),
    ],
)
def test_what_no_other_moment_changes_is_told_at_once(error: redis.RedisError, kind: type[Exception]) -> None:
    assert not passing(error)
    assert type(translate(error, "here", "r", 5.0)) is kind


def test_after_a_failure_no_kept_connection_is_trusted(server: RedisServer) -> None:
    """On a link that was cut without a word, each of them would cost a whole time limit."""
    broker = Broker.connect(server.url, "r", deadline_s=DEADLINE_S)
    failed: list[int] = []
    before = broker.run(lambda client: client.client_id())

    def ask(client: "redis.Redis") -> int:
        if not failed:
            failed.append(1)
            raise redis.TimeoutError("no answer")
        return int(client.client_id())

    assert broker.run(ask) != before
