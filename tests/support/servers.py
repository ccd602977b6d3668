"""The servers that tests of the protocol run on: the one that a run finds, and Redis 7."""

import functools
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from debian import program

from isentrope.redis_server import RedisServer

REDIS_7 = "ISENTROPE_REDIS_7"
"""Environment variable with the path of a Redis 7 server; unset: the one on PATH, or Debian's."""

PACKAGES = ("redis-server", "redis-tools", "liblzf1", "libjemalloc2", "libatomic1")

BOTH = ["own", "redis-7"]
"""Kinds of servers, as parameters of a test."""


def binary_of(kind: str) -> Path | None:
    """Return the program of a kind of server, None: the one that a run finds; skip the test if there is none."""
    if kind == "own":
        return None
    found = redis_7()
    if not found:
        pytest.skip(f"no Redis 7: {REDIS_7} names none, none is on PATH, and Debian's cannot be had")
    return Path(found)


@functools.cache
def redis_7() -> str:
    """Return the path of a Redis 7 server; empty: there is none."""
    here = os.environ.get(REDIS_7) or shutil.which("redis-server") or ""
    if here and _version(here).startswith("7."):
        return here
    found = program("redis-server", PACKAGES)
    return found if found and _version(found).startswith("7.") else ""


def _version(binary: str) -> str:
    """Return the version and what follows it, as in `Redis server v=7.0.15 sha=...`; empty: it does not run."""
    done = subprocess.run([binary, "--version"], check=False, capture_output=True, text=True)
    return done.stdout.partition("v=")[2]


@contextmanager
def served(kind: str, folder: Path) -> Iterator[RedisServer]:
    """Yield a started server of that kind."""
    with RedisServer(binary=binary_of(kind)) as server:
        server.start(folder)
        yield server
