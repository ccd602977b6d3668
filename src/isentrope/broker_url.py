"""The broker's URL, put together from where its parts may stand: secrets in files and the environment alone."""

from pathlib import Path
from typing import Protocol
from urllib.parse import quote, urlencode, urlsplit, urlunsplit

from isentrope.environment import variable
from isentrope.errors import ConfigError
from isentrope.rollout.broker.access import Role
from isentrope.rollout.config import RedisConfig

PASSWORDS = "deploy/redis/make-acl.sh RUN FOLDER makes a file of a password for each role"
"""Advice where a password is missing."""


class Parts(Protocol):
    """Places of the parts of a run's URL: `[redis]` of its run file, or `run.json`, which repeats it."""

    @property
    def url_env(self) -> str: ...
    @property
    def password_file(self) -> str: ...
    @property
    def passwords(self) -> str: ...
    @property
    def ca_file(self) -> str: ...


def url_for(role: Role, parts: Parts) -> str:
    """Return the whole URL for processes of a role; empty: the environment names no broker.

    Raises:
        ConfigError: as `complete`, or the URL names a user though each role has its own.
    """
    url = variable(parts.url_env)
    if not url or not parts.passwords:
        return complete(url, parts.password_file, parts.ca_file)
    split = urlsplit(url)
    if "@" in split.netloc:
        raise ConfigError(
            f"the URL in {parts.url_env} names a user or a password, and {parts.passwords} those of each role",
            fix="leave them out of the URL, or leave redis.passwords out",
        )
    named = urlunsplit(split._replace(netloc=f"{role}@{split.netloc}"))
    return complete(named, str(Path(parts.passwords) / f"{role}.password"), parts.ca_file)


def complete(url: str, password_file: str = "", ca_file: str = "") -> str:
    """Return the URL with a password that a file holds, and with the certificate authorities of a `rediss://` one.

    Raises:
        ConfigError: the file cannot be read, or is empty; or the URL has another password already.
    """
    if not url:
        return ""
    parts = urlsplit(url)
    if password_file:
        if parts.password is not None:
            raise ConfigError(
                f"the broker's URL holds a password, and {password_file} another", fix="leave one of them out"
            )
        user, _, place = parts.netloc.rpartition("@")
        parts = parts._replace(netloc=f"{user.rstrip(':')}:{quote(_read(password_file), safe='')}@{place}")
    if ca_file and parts.scheme == "rediss":
        query = "&".join(each for each in (parts.query, urlencode({"ssl_ca_certs": ca_file})) if each)
        parts = parts._replace(query=query)
    return urlunsplit(parts) if parts.netloc or parts.scheme != "unix" else url


def requested(argument: str, password_file: str = "", ca_file: str = "") -> str:
    """Return the whole URL of the broker that a command's `--redis` names, else the environment.

    Raises:
        ConfigError: neither names one; the argument holds a password, which every user of the machine could read; or as
            `complete`.
    """
    variable_name = RedisConfig().url_env
    if urlsplit(argument).password is not None:
        raise ConfigError(
            "the URL of --redis holds a password, which the list of processes shows to everyone on this machine",
            fix=f"set {variable_name} instead, or leave the password out and give --password-file FILE",
        )
    url = complete(argument or variable(variable_name), password_file, ca_file)
    if not url:
        raise ConfigError("no broker is given", fix=f"--redis URL, or set {variable_name}")
    return url


def _read(password_file: str) -> str:
    try:
        password = Path(password_file).expanduser().read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise ConfigError(
            f"the password file {password_file} cannot be read: {reason}",
            fix=PASSWORDS,
        ) from None
    if not password:
        raise ConfigError(f"the password file {password_file} is empty", fix="write the password into it")
    return password
