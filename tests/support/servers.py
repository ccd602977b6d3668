"""The servers that tests of the protocol run on: the one that a run finds, and Redis 7 where there is one."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from isentrope.redis_server import RedisServer

REDIS_7 = "ISENTROPE_REDIS_7"
"""Environment variable with the path of a Redis 7 server."""

BOTH = [
    pytest.param("", id="own"),
    pytest.param(
        os.environ.get(REDIS_7, ""),
        id="redis-7",
        marks=pytest.mark.skipif(not os.environ.get(REDIS_7), reason=f"{REDIS_7} names no server"),
    ),
]
"""Programs of servers, as parameters of a test; empty: the one that a run finds."""


@contextmanager
def served(program: str, folder: Path) -> Iterator[RedisServer]:
    """Yield a started server of that program."""
    with RedisServer(binary=Path(program) if program else None) as server:
        server.start(folder)
        yield server
