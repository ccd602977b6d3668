"""Access rules of the broker: what each role of a run may do, in one table.

The private server's users are made from it, and `deploy/redis/users.acl`. A script grants nothing: Redis checks what it
does against its caller's rules.
"""

import hashlib
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType


class Role(StrEnum):
    """Role of a process towards the broker, and the name of its user."""

    COMMAND = "command"
    """`isentrope train`, which supervises."""
    LEARNER = "learner"
    """Ranks."""
    ACTOR = "actor"
    """Rollout actors, reward code included."""
    VIEWER = "viewer"
    """`isentrope status`, and everything else that only looks."""
    OPERATOR = "operator"
    """`isentrope mode` and `isentrope scale`."""


@dataclass(frozen=True, slots=True)
class Rights:
    """Keys below a run's name, as globs, and commands of a role."""

    keys: tuple[str, ...]
    commands: tuple[str, ...]

    def rules(self, run: str) -> tuple[str, ...]:
        """Return the rules of Redis for the runs whose names fit `run`."""
        keys = (f"~{{{run}}}:{key}" for key in self.keys)
        return ("resetchannels", "-@all", *keys, *(f"+{command}" for command in self.commands))


_ALL_KEYS = ("*",)
_LOOK = ("get", "hgetall", "xlen", "xinfo", "time", "info")
_ASK = ("evalsha", "hset", "hdel", "xadd")

RIGHTS: Mapping[Role, Rights] = MappingProxyType(
    {
        Role.COMMAND: Rights(
            _ALL_KEYS, (*_LOOK, *_ASK, "del", "hget", "hincrby", "xpending", "xrange", "xack", "xdel")
        ),
        Role.LEARNER: Rights(
            _ALL_KEYS,
            (
                *("evalsha", "script|load", "xreadgroup", "xgroup|create", "xpending", "xinfo", "xrange"),
                *("xlen", "xack", "xdel", "xadd", "get", "set", "setnx", "del", "hget", "hgetall", "hexists", "hset"),
                *("hdel", "hincrby", "time", "info", "ping"),
            ),
        ),
        Role.ACTOR: Rights(
            (
                *("meta", "ctl", "weights", "cursor", "work", "work:hi", "eval", "traj", "evald", "pub"),
                *("sizes", "n", "actors", "leave", "turns", "reaper", "relays", "news", "news:*"),
            ),
            (
                *("evalsha", "xread", "xreadgroup", "xpending", "xinfo", "xrange", "xack", "xdel", "xadd", "get"),
                *("hget", "hgetall", "hset", "hdel", "hincrby", "time", "info"),
            ),
        ),
        Role.VIEWER: Rights(_ALL_KEYS, _LOOK),
        Role.OPERATOR: Rights(_ALL_KEYS, (*_LOOK, *_ASK)),
    }
)
"""Rights of each role: enough for everything it does, and not a command more."""


def users(run: str, secret: Callable[[Role], str]) -> list[str]:
    """Return a line for each role's user, as configuration and ACL files of Redis have it; `secret`: a role's
    `>password`, or `#` and its SHA-256."""
    return [f"user {role} on {secret(role)} {' '.join(rights.rules(run))}" for role, rights in RIGHTS.items()]


def hashed(password: str) -> str:
    """Return a password in the form in which an ACL file may hold it."""
    return "#" + hashlib.sha256(password.encode()).hexdigest()


def new_passwords() -> dict[Role, str]:
    """Return a random password for each role."""
    return {role: secrets.token_hex(24) for role in Role}


def template() -> str:
    """Return an ACL file in which the name of the run and the passwords are left open. Without a password nobody enters
    but a probe, which learns whether the server answers."""
    roles = users("RUN", lambda _: ">PASSWORD")
    return "\n".join(
        ["user default off resetpass -@all", *roles, "user health on nopass resetchannels -@all +ping", ""]
    )
