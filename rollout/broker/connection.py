"""Connection to the broker of one run: preflight, retries, scripts. The delivery protocol is in the two ports.

How calls behave: every call is synchronous and thread-safe, and uses one of at most `MAX_CONNECTIONS` connections. A
lost connection, a time-out and every answer of `answers.PASSING` are retried on a new connection with jittered backoff
until `deadline_s` has passed, then `UnreachableError`; so whatever is sent may reach the server twice, and every script
is idempotent. A refused password or command is `AccessError` at once. A broker that is out of memory or disk is
`BrokerFullError`, with nothing changed.

Every new connection reads the server's `run_id`. After `pin()` a connection to another server process is refused with
`BrokerChangedError` before anything is sent on it, until `pin()` is called again: a server that came back may hold an
older state, in which an older learner would look like the present one.
"""

import hashlib
import ipaddress
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import urlsplit

import redis
from redis.backoff import ExponentialWithJitterBackoff, NoBackoff
from redis.retry import Retry

from isentrope.errors import (
    AccessError,
    BrokerChangedError,
    ConfigError,
    InternalError,
    NoScriptsError,
    UnreachableError,
)
from isentrope.rollout.broker.answers import MissingScript, passing, spoiled_by, translate
from isentrope.rollout.broker.keys import Keys
from isentrope.rollout.broker.slow_links import KINDS

MIN_VERSION = (6, 2)
MAX_CONNECTIONS = 8
SOCKET_TIMEOUT_S = 9.0
"""Longest wait for progress on a socket; `slow_links.py` says of what. The first line about a server that does not
answer comes then."""
BLOCK_S = 5.0
"""Longest wait inside one command: below the socket's time-out, which would break the connection; shorter ones cost the
broker more calls of idle actors."""

FOR_ACTORS = (
    "meta ctl weights cursor",
    "pub sizes n actors leave turns reaper relays",
    "work work_hi eval evald traj news",
)
"""Keys that actors may write, as attributes of `Keys`: strings, hashes, streams, to which those of `wake` are added."""

SCRIPT_KEYS = {
    "fence": f"incarnation holder ckpt lwm {' '.join(FOR_ACTORS)}",
    "mend": f"incarnation {' '.join(FOR_ACTORS)}",
    "issue": "incarnation cursor ctl n pub work",
    "check": "pub cursor work work_hi",
    "publish": "pub cursor traj sizes n",
    "publish_eval": "eval evald",
    "handback": "work work_hi eval news",
    "reap": "actors work work_hi eval traj evald pub sizes n news",
    "drop": "incarnation traj sizes n",
    "set": "incarnation news",
    "commit": "incarnation lwm ckpt pub plans",
    "reconcile": "incarnation lwm cursor pub sizes work work_hi n",
    "heartbeat": "actors reaper",
    "issue_eval": "incarnation eval metrics news",
    "turn": "turns actors",
    "reaper": "reaper",
    "relay": "relays",
    "ask": "news",
}
"""Keys of each script in `scripts/`, as attributes of `Keys`, in the order the script names them."""

Client: TypeAlias = "redis.Redis"
Argument: TypeAlias = str | bytes | int

logger = logging.getLogger(__name__)


class InterruptedCallError(InternalError):
    """The connection was interrupted, by this process."""


class Broker:
    """One run's broker, made with `connect`."""

    def __init__(self, client: Client, keys: Keys, place: str, deadline_s: float) -> None:
        self.keys = keys
        self.place = place
        self.deadline_s = deadline_s
        self.run_id = ""
        self._client = client
        self._pinned: str | None = None
        self._interrupted = False
        self._scripts = {name: _Script(name) for name in SCRIPT_KEYS}

    def __repr__(self) -> str:
        return f"Broker({self.place}, run={self.keys.run!r})"

    @classmethod
    def connect(cls, url: str, run: str, *, deadline_s: float = 30.0, insecure: bool = False) -> "Broker":
        """Connect and check the server, in at most `deadline_s` seconds.

        Args:
            url: `unix://:password@/path`, `redis://…` or `rediss://…`; the password appears in no message.
            run: name of the run.
            insecure: allow a server on another host without a password.

        Raises:
            UnreachableError: no answer within the deadline, or a replica.
            AccessError: user, password, certificate or access rules.
            ConfigError: the URL; a server that may evict keys, is older than 6.2, or is a cluster; no password.
        """
        keys = Keys(run)
        client, place = _open(url, deadline_s, insecure)
        broker = cls(client, keys, place, deadline_s)
        client.connection_pool.connection_kwargs["redis_connect_func"] = broker._greet
        info = broker.run(lambda client: client.info())
        assert isinstance(info, dict)
        _preflight(info, place)
        return broker

    def close(self) -> None:
        """Close all connections."""
        self._client.close()
        self._client.connection_pool.disconnect()

    def apart(self) -> "Broker":
        """Return the same broker by connections of its own, for reads that block until `interrupt` ends them."""
        pool = self._client.connection_pool
        settings = {**pool.connection_kwargs, "max_connections": 2, "timeout": self.deadline_s}
        own = redis.BlockingConnectionPool(connection_class=pool.connection_class, **settings)
        broker = Broker(redis.Redis(connection_pool=own), self.keys, self.place, self.deadline_s)
        own.connection_kwargs["redis_connect_func"] = broker._greet
        return broker

    @property
    def is_interrupted(self) -> bool:
        """True after `interrupt`."""
        return self._interrupted

    def interrupt(self) -> None:
        """End all calls, now and later, with InterruptedCallError; for any thread. What they read may be lost."""
        self._interrupted = True
        self._client.connection_pool.disconnect()

    def pin(self) -> None:
        """Refuse, from now on, every server process but the one that answers now."""
        self._pinned = None
        self._client.connection_pool.disconnect(inuse_connections=False)
        self.run(lambda client: client.ping())
        self._pinned = self.run_id

    def run(self, operation: Callable[[Client], Any]) -> Any:
        """Return what `operation` returns, with retries; it must be harmless when repeated."""
        deadline = time.monotonic() + self.deadline_s
        backoff = ExponentialWithJitterBackoff(base=0.05, cap=1.0)
        failures = 0
        while True:
            try:
                if self._interrupted:
                    raise InterruptedCallError("the connection was interrupted")
                return operation(self._client)
            except (redis.RedisError, OSError, ValueError) as error:
                if self._interrupted:
                    continue  # the socket was closed under the call
                if not isinstance(error, redis.RedisError):
                    raise
                failures += 1
                if self._pinned is not None and (spoiled := spoiled_by(error)):
                    raise BrokerChangedError(f"the broker at {self.place} has {spoiled}", where=self.keys.run) from None
                if not passing(error) or time.monotonic() > deadline:
                    user = self._client.connection_pool.connection_kwargs.get("username") or ""
                    raise translate(error, self.place, self.keys.run, self.deadline_s, user) from None
                if failures == 1:
                    logger.warning("broker at %s: %s; trying again", self.place, type(error).__name__)
                # Connections that nobody uses now lead to the same server, or to none: each would cost a time limit.
                self._client.connection_pool.disconnect(inuse_connections=False)
            time.sleep(backoff.compute(failures))

    def group_read(self, read: Callable[[Client], Any]) -> Any:
        """Read through a consumer group, as `run`; None if the server has lost the group (a learner makes it again)."""
        try:
            return self.run(read)
        except InternalError as error:
            if not any(word in error.what for word in ("NOGROUP", "UNBLOCKED", "no such key")):
                raise
            return None

    def call(self, script: str, *args: Argument, keys: Sequence[str] = ()) -> Any:
        """Return the reply of a script on its own keys plus `keys`.

        Without the right to load scripts, wait until the learner has loaded them again after a restart of the server.

        Raises:
            UnreachableError: no answer within the deadline.
            NoScriptsError: no scripts within the deadline.
            BrokerFullError: a write needs memory or disk that the server does not have.
            FencedReply: the script found another incarnation.
        """
        names = [*(getattr(self.keys, attribute) for attribute in SCRIPT_KEYS[script].split()), *keys]
        source = self._scripts[script]
        deadline = time.monotonic() + self.deadline_s
        while True:
            try:
                return self.run(lambda client: client.evalsha(source.digest, len(names), *names, *args))
            except MissingScript:
                try:
                    self._load(source)
                except AccessError:
                    if time.monotonic() > deadline:
                        raise NoScriptsError(
                            f"the broker at {self.place} has no scripts, and no learner has loaded them",
                            fix="start the learner; actors may not load scripts",
                        ) from None
                    time.sleep(0.5)

    def load_scripts(self) -> None:
        """Load all scripts, including those of actors."""
        for source in self._scripts.values():
            self._load(source)

    def _load(self, source: "_Script") -> None:
        self.run(lambda client: client.script_load(source.text))

    def _greet(self, connection: Any) -> None:
        """Check a new connection; close it again if the server is not the pinned one."""
        connection.on_connect()
        connection.send_command("INFO", "server")
        run_id = _run_id(connection.read_response())
        if self._pinned is not None and run_id != self._pinned:
            connection.disconnect()
            raise BrokerChangedError(
                f"the broker at {self.place} was restarted: another process answers", where=self.keys.run
            )
        self.run_id = run_id


class _Script:
    """One file of `scripts/`, after what all of them begin with, and the digest of both."""

    def __init__(self, name: str) -> None:
        folder = Path(__file__).parent / "scripts"
        parts = ("counting", "mending", name)
        self.text = "".join((folder / f"{part}.lua").read_text(encoding="utf-8") for part in parts)
        self.digest = hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()


def describe(url: str) -> str:
    """Return the place a URL points to, without user and password."""
    parts = urlsplit(url)
    if parts.scheme == "unix":
        return parts.path
    return f"{parts.hostname or 'localhost'}:{parts.port or 6379}"


def _open(url: str, deadline_s: float, insecure: bool) -> tuple[Client, str]:
    try:
        place = describe(url)
        pool = redis.BlockingConnectionPool.from_url(
            url,
            max_connections=MAX_CONNECTIONS,
            timeout=deadline_s,
            protocol=2,
            socket_timeout=SOCKET_TIMEOUT_S,
            socket_connect_timeout=min(5.0, deadline_s),
            retry=Retry(NoBackoff(), 0),  # `Broker.run` retries, by time instead of by count
        )
    except (ValueError, redis.RedisError):  # their texts may quote the URL, password included
        raise ConfigError(
            "the broker's URL cannot be parsed", fix="unix://:password@/path, redis://host:port or rediss://host:port"
        ) from None
    pool.connection_class = KINDS[pool.connection_class]
    settings = pool.connection_kwargs
    host = settings.get("host", "localhost")
    if "path" not in settings and not insecure and not settings.get("password") and not _is_loopback(host):
        raise ConfigError(
            f"the broker at {place} is on another host and has no password",
            fix="put a password into its URL, or set redis.insecure = true",
        )
    return redis.Redis(connection_pool=pool), place


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _preflight(info: dict[str, Any], place: str) -> None:
    version = str(info["redis_version"])
    if tuple(int(part) for part in version.split(".")[:2]) < MIN_VERSION:
        raise ConfigError(f"redis at {place} is {version}", fix="use 6.2 or newer")
    if info["role"] != "master":
        primary = f"{info.get('master_host')}:{info.get('master_port')}"
        raise UnreachableError(f"redis at {place} is a replica of {primary}", fix="give the primary's address")
    if info.get("cluster_enabled"):
        raise ConfigError(f"redis at {place} is a cluster", fix="use a single server")
    policy = info["maxmemory_policy"]
    if policy != "noeviction":
        raise ConfigError(
            f"redis at {place} may evict keys: maxmemory-policy is {policy}", fix="set maxmemory-policy noeviction"
        )
    if not info.get("aof_enabled"):
        logger.warning("redis at %s has no append-only file: rollouts in flight are lost if it stops", place)


def _run_id(reply: object) -> str:
    """Return `run_id` of an INFO reply, raw or parsed."""
    if isinstance(reply, dict):
        return str(reply["run_id"])
    text = reply.decode() if isinstance(reply, bytes) else str(reply)
    return next(line.split(":", 1)[1] for line in text.splitlines() if line.startswith("run_id:"))
