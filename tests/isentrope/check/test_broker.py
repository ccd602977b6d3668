"""A broker by URL that cannot hold the run's budget, or cannot be used, is refused before anything starts."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from redis.connection import parse_url

from isentrope.check.broker import require_usable
from isentrope.check.findings import Findings
from isentrope.config import load
from isentrope.errors import AccessError, ConfigError
from isentrope.launch.broker import OF_A_COMMAND
from isentrope.redis_server import RedisServer
from isentrope.rollout.broker.access import Role

VARIABLE = "ISENTROPE_REDIS_URL"
BUDGET = 64 << 20
NEEDED = 65 << 20


@pytest.fixture
def broker_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], str]]:
    """A function that starts a server with a limit of its memory, and puts its URL into the environment."""
    with ExitStack() as stack:

        def start(max_memory: int) -> str:
            url = stack.enter_context(RedisServer(max_memory=max_memory)).start(tmp_path / "redis")
            monkeypatch.setenv(VARIABLE, url)
            return url

        yield start


def _doubt(run_file: Path) -> str:
    config, _ = load(run_file, [f"redis.max_bytes={BUDGET}"])
    return require_usable(config, "here")


@pytest.mark.parametrize("limit", [0, NEEDED, NEEDED + 1])
def test_a_broker_with_room_for_the_budget_is_used(run_file: Path, broker_of: Callable[[int], str], limit: int) -> None:
    broker_of(limit)
    assert _doubt(run_file) == ""


def test_one_with_less_is_refused_with_what_would_do(run_file: Path, broker_of: Callable[[int], str]) -> None:
    broker_of(NEEDED - 1)
    with pytest.raises(ConfigError) as refused:
        _doubt(run_file)
    error = refused.value
    assert f"max_bytes = {BUDGET} needs a broker with {NEEDED} bytes" in error.what
    assert f"has maxmemory {NEEDED - 1}" in error.what and error.where == "here"
    assert f"maxmemory to {NEEDED} or more, or redis.max_bytes to {(NEEDED - 1) * 64 // 65} or less" in error.fix


def test_the_check_of_a_run_file_looks_at_it(run_file: Path, broker_of: Callable[[int], str]) -> None:
    broker_of(NEEDED - 1)
    found = dict(Findings(*load(run_file, [f"redis.max_bytes={BUDGET}"])).stages())["machine"]
    assert found is not None
    assert [type(error) for error in found] == [ConfigError] and "redis.max_bytes" in str(found[0])


def test_a_wrong_password_is_told(
    run_file: Path, broker_of: Callable[[int], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    user, _, place = broker_of(0).rpartition("@")
    monkeypatch.setenv(VARIABLE, f"{user.rpartition(':')[0]}:wrong@{place}")
    with pytest.raises(AccessError):
        _doubt(run_file)


@pytest.fixture
def guarded(tmp_path: Path, run_file: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Folder of the passwords of a broker whose users are those of the run of the file."""
    config, _ = load(run_file, [])
    with RedisServer(run=config.run.name) as server:
        server.start(tmp_path / "redis")
        passwords = tmp_path / "passwords"
        passwords.mkdir()
        for role in Role:
            (passwords / f"{role}.password").write_text(str(parse_url(server.url_of(role))["password"]))
        monkeypatch.setenv(VARIABLE, f"unix://{server.socket}")
        yield passwords


def _errors(run_file: Path, passwords: Path, *changes: str) -> list[Exception]:
    found = dict(Findings(*load(run_file, [f"redis.passwords={passwords}", *changes])).stages())
    assert found["install"] == []
    return found["machine"] or []


def test_users_of_the_run_may_use_it(run_file: Path, guarded: Path) -> None:
    assert _errors(run_file, guarded) == []


def test_users_of_another_run_are_refused_by_its_name(run_file: Path, guarded: Path) -> None:
    (error,) = _errors(run_file, guarded, "run.name=other")
    assert isinstance(error, AccessError) and "user 'command' what run 'other' needs" in error.what
    assert "make-acl.sh" in error.fix


@pytest.mark.parametrize("role", OF_A_COMMAND)
def test_a_wrong_password_of_any_process_is_told(run_file: Path, guarded: Path, role: Role) -> None:
    """Not hours later, by the first process that is a user of this role."""
    (guarded / f"{role}.password").write_text("wrong")
    (error,) = _errors(run_file, guarded)
    assert isinstance(error, AccessError) and f"refuses user '{role}'" in error.what


def test_passwords_that_are_not_there_are_named_with_what_makes_them(run_file: Path, guarded: Path) -> None:
    (error,) = _errors(run_file, guarded / "none")
    assert isinstance(error, ConfigError) and f"{guarded}/none is not a folder" in error.what
    assert "make-acl.sh" in error.fix


def test_one_that_does_not_answer_is_a_doubt(run_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("isentrope.check.broker.ASK_S", 0.1)
    monkeypatch.setenv(VARIABLE, f"unix://:password@{tmp_path}/nothing.sock")
    assert _doubt(run_file).startswith("the broker was not looked at: cannot reach redis at ")


def test_a_run_without_one_starts_its_own(run_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    assert _doubt(run_file) == ""
