"""Where the broker's password and certificates may stand, and what redis makes of the whole URL."""

from pathlib import Path

import pytest
from redis.connection import parse_url

from isentrope.broker_url import complete, require_no_password
from isentrope.errors import ConfigError

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


def test_an_argument_may_not_hold_one() -> None:
    require_no_password("redis://user@host:1", "--redis")
    with pytest.raises(ConfigError, match="list of processes") as caught:
        require_no_password("redis://:secret@host", "--redis")
    assert "secret" not in str(caught.value)
