"""A run's depot over HTTP: served by the command itself or by one of its own, and how both sides know its token."""

import contextlib
import ipaddress
import socket
from collections.abc import Iterator
from pathlib import Path

from redis.connection import parse_url

from isentrope.environment import TOKEN_VARIABLE, variable
from isentrope.errors import ConfigError
from isentrope.launch.broker import Place
from isentrope.rollout.depot.server import Address, DepotServer, token_of

_ANY = ("0.0.0.0", "::")


def depot_token(broker_url: str, run: str) -> str:
    """Return the token of a run's depot; empty: neither the environment nor the broker's URL holds a secret."""
    try:
        password = parse_url(broker_url).get("password") if broker_url else None
    except ValueError:  # whoever connects tells it; the text of this error may quote the password
        password = None
    return variable(TOKEN_VARIABLE) or token_of(str(password or ""), run)


@contextlib.contextmanager
def served(folder: Path, address: Address, token: str, *, insecure: bool) -> Iterator[DepotServer]:
    """Serve a run's folder while the block runs.

    Raises:
        ConfigError: other machines could read it without a token.
        UnreachableError: the address cannot be used.
    """
    if not token and not insecure and not _is_loopback(address.host):
        raise ConfigError(
            f"whoever reaches {address.host}:{address.port} could read the run's data and weights",
            fix=f"use a broker with a password, set {TOKEN_VARIABLE}, or allow it by insecure",
        )
    with DepotServer(folder, address, token) as server:
        yield server


@contextlib.contextmanager
def offered(folder: Path, bind: str, token: str, place: Place, *, insecure: bool) -> Iterator[list[str]]:
    """Serve a run's folder at `bind`, which may be empty, while the block runs; yield the URLs to announce.

    Raises:
        ConfigError: as `served`, or no other machine could know of it, because the broker is private.
    """
    if not bind:
        yield []
        return
    if place.socket:
        raise ConfigError(
            "weights.serve offers files to other machines, and none can reach a private broker",
            fix="start a Redis that they can reach, and set ISENTROPE_REDIS_URL to its URL; or leave weights.serve out",
        )
    with served(folder, Address.parse(bind), token, insecure=insecure) as server:
        yield [server.url.replace(f"//{host}:", f"//{socket.getfqdn()}:") if (host := _any(bind)) else server.url]


def _any(bind: str) -> str:
    """Return the host of an address that stands for all of this machine's, as URLs write it; else empty."""
    host = Address.parse(bind).host
    return (f"[{host}]" if ":" in host else host) if host in _ANY else ""


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
