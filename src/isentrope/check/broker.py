"""The broker that the environment names: whether each role may use it for this run, and whether it has the memory for
the run's budget."""

import contextlib
from functools import partial
from pathlib import Path

from isentrope.broker_url import PASSWORDS, url_for
from isentrope.config import Config
from isentrope.environment import variable
from isentrope.errors import ConfigError, UnreachableError, collected
from isentrope.launch.broker import OF_A_COMMAND
from isentrope.rollout.broker.access import Role
from isentrope.rollout.broker.connection import Broker
from isentrope.rollout.broker.run_view import RunView
from isentrope.rollout.config import RedisConfig
from isentrope.runfile import raise_all

ASK_S = 3.0
"""Time limit of the broker's answer: without one the check goes on, and the run itself waits for longer."""


def require_usable(config: Config, where: str) -> str:
    """Return a doubt about the broker that the environment names; empty: none, or the run will start its own.

    Args:
        where: place of `redis.max_bytes`.

    Raises:
        ConfigError: it may not be used, or has too little memory; or a password cannot be read.
        AccessError: it refuses a user or a password, or the access rules are those of another run.
    """
    for url in dict.fromkeys(_urls(config.redis)):
        try:
            broker = Broker.connect(url, config.run.name, deadline_s=ASK_S, insecure=config.redis.insecure)
            with contextlib.closing(broker):
                view = RunView(broker)
                view.text(broker.keys.ctl)  # a key of the run, which every role may read
                require_memory(view, config.redis.max_bytes, where)
        except UnreachableError as error:
            return f"the broker was not looked at: {error.what}"
    return ""


def _urls(redis: RedisConfig) -> list[str]:
    """Return the URLs of the roles; none where the environment names no broker. All passwords that cannot be read are
    raised together."""
    if not variable(redis.url_env):
        return []
    if redis.passwords and not Path(redis.passwords).expanduser().is_dir():
        raise ConfigError(f"{redis.passwords} is not a folder", where="redis.passwords", fix=PASSWORDS)
    urls: list[str] = []

    def read(role: Role) -> None:
        urls.append(url_for(role, redis))

    raise_all(collected(*(partial(read, role) for role in OF_A_COMMAND)))
    return urls


def require_memory(view: RunView, max_bytes: int, where: str) -> None:
    """Raise ConfigError if the broker would be full before the run's budget is."""
    _, limit = view.memory()
    needed = max_bytes * 65 // 64  # with what Redis itself needs for the groups
    if 0 < limit < needed:
        raise ConfigError(
            f"redis.max_bytes = {max_bytes} needs a broker with {needed} bytes, and the one at {view.broker.place} "
            f"has maxmemory {limit}",
            where=where,
            fix=f"set its maxmemory to {needed} or more, or redis.max_bytes to {limit * 64 // 65} or less",
        )
