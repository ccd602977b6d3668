"""Where the broker's password and certificates may stand, and what redis makes of the whole URL."""

from pathlib import Path

import pytest
from redis.connection import parse_url
from typer.testing import CliRunner

from isentrope.broker_url import complete, requested, url_for
from isentrope.cli import app
from isentrope.errors import ConfigError
from isentrope.rollout.broker.access import Role
from isentrope.rollout.config import RedisConfig

PASSWORD = "p@ss: w/rd?"


@pytest.mark.parametrize("url", ["redis://host:1", "rediss://user@host:1/0", "unix:///a/socket"])
def test_a_password_from_a_file_is_the_one_that_redis_sends(url: str, tmp_path: Path) -> None:
    (tmp_path / "password").write_text(f"{PASSWORD}\n")
    whole = parse_url(complete(url, str(tmp_path / "password")))
    assert whole.pop("password") == PASSWORD
    before = parse_url(url)
    assert {key: whole.get(key) for key in before} == before


def test_certificates_are_for_tls_alone() -> None:
    assert parse_url(complete("rediss://:p@host?db=3", "", "/ca one.pem"))["ssl_ca_certs"] == "/ca one.pem"
    assert parse_url(complete("rediss://:p@host?db=3", "", "/ca.pem"))["db"] == 3
    assert complete("redis://:p@host", "", "/ca.pem") == "redis://:p@host"
    assert complete("", "/nothing", "/ca.pem") == ""


@pytest.mark.parametrize("content", [None, "", "\n"])
def test_a_password_file_without_a_password_is_named(content: str | None, tmp_path: Path) -> None:
    place = tmp_path / "password"
    if content is not None:
        place.write_text(content)
    with pytest.raises(ConfigError, match=str(place)):
        complete("redis://host", str(place))


def test_two_passwords_contradict(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("secret")
    with pytest.raises(ConfigError, match="holds a password") as caught:
        complete("redis://:other@host", str(tmp_path / "password"))
    assert "other@" not in str(caught.value)


def _passwords(folder: Path) -> RedisConfig:
    """Write a password for each role."""
    for role in Role:
        (folder / f"{role}.password").write_text(f"of-{role}\n")
    return RedisConfig(url_env="BROKER", passwords=str(folder))


@pytest.mark.parametrize("url", ["redis://host:1", "rediss://host:1/0", "unix:///a/socket?db=0"])
def test_each_role_has_a_user_and_a_password_of_its_own(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BROKER", url)
    for role in Role:
        whole = parse_url(url_for(role, _passwords(tmp_path)))
        assert (whole.pop("username"), whole.pop("password")) == (role, f"of-{role}")
        assert whole == parse_url(url)


def test_roles_share_the_urls_user_where_no_passwords_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BROKER", "redis://user:secret@host")
    assert {url_for(role, RedisConfig(url_env="BROKER")) for role in Role} == {"redis://user:secret@host"}


@pytest.mark.parametrize("user", ["user@", ":secret@", "user:secret@"])
def test_a_url_with_a_user_contradicts_those_of_the_roles(
    user: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BROKER", f"redis://{user}host")
    with pytest.raises(ConfigError, match="those of each role") as caught:
        url_for(Role.ACTOR, _passwords(tmp_path))
    assert "secret" not in str(caught.value)


def test_without_a_broker_no_password_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BROKER", raising=False)
    assert url_for(Role.ACTOR, RedisConfig(url_env="BROKER", passwords="/no/such/folder")) == ""


def test_an_argument_may_not_hold_one() -> None:
    assert requested("redis://user@host:1") == "redis://user@host:1"
    with pytest.raises(ConfigError, match="list of processes") as caught:
        requested("redis://:secret@host")
    assert "secret" not in str(caught.value)


def test_the_environment_names_the_broker_where_no_argument_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ISENTROPE_REDIS_URL", raising=False)
    with pytest.raises(ConfigError, match="no broker is given"):
        requested("")
    (tmp_path / "password").write_text("secret")
    monkeypatch.setenv("ISENTROPE_REDIS_URL", "redis://of-the-environment")
    assert requested("", str(tmp_path / "password")) == "redis://:secret@of-the-environment"
    assert requested("redis://of-the-argument") == "redis://of-the-argument"


@pytest.mark.parametrize("command", [["actor"], ["exporter"], ["scale", "actors=1"]])
def test_every_command_that_takes_a_url_refuses_a_password_in_it(command: list[str]) -> None:
    result = CliRunner().invoke(app, [*command, "--run", "r", "--redis", "redis://:secret@127.0.0.1:1"])
    assert isinstance(result.exception, ConfigError)
    assert "list of processes" in str(result.exception)
    assert "secret" not in str(result.exception)
