"""The broker that the environment names: whether it can be used, and has the memory for the run's budget."""

import contextlib

from isentrope.broker_url import url_for
from isentrope.config import Config
from isentrope.errors import ConfigError, UnreachableError
from isentrope.rollout.broker.access import Role
from isentrope.rollout.broker.connection import Broker
from isentrope.rollout.broker.run_view import RunView

ASK_S = 3.0
"""Time limit of the broker's answer: without one the check goes on, and the run itself waits for longer."""


def require_usable(config: Config, where: str) -> str:
    """Return a doubt about the broker that the environment names; empty: none, or the run will start its own.

    Args:
        where: place of `redis.max_bytes`.

    Raises:
        ConfigError: it may not be used, or has too little memory.
        AccessError: it refuses the user or the password.
    """
    url = url_for(Role.COMMAND, config.redis)
    if not url:
        return ""
    try:
        broker = Broker.connect(url, config.run.name, deadline_s=ASK_S, insecure=config.redis.insecure)
        with contextlib.closing(broker):
            require_memory(RunView(broker), config.redis.max_bytes, where)
    except UnreachableError as error:
        return f"the broker was not looked at: {error.what}"
    return ""


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
