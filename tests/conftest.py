"""What all tests share: the environment of a machine without a GPU, a private broker, names of runs."""

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from resume import Resume

from isentrope import environment

environment.set_defaults(offline=True)
if not environment.has_gpu():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # read when a kernel is decorated, so before any kernel's import

from isentrope.redis_server import RedisServer  # noqa: E402  (the environment comes first)

# Examples are the same in every run: a red suite is red again, and no run fails by the machine's load.
settings.register_profile("isentrope", deadline=None, derandomize=True)
settings.load_profile("isentrope")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options of `make soak`."""
    parser.addoption("--resume", action="store_true", help="leave out what passed with this option at this commit")


def pytest_configure(config: pytest.Config) -> None:
    """Go on where a session was stopped."""
    if config.getoption("resume"):
        config.pluginmanager.register(Resume(config.cache))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Quick tests first: what is plainly broken shows in minutes."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is not None)


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a private server that all tests of the session share; keep to your own run names."""
    with RedisServer() as server:
        yield server.start(tmp_path_factory.mktemp("redis"))


@pytest.fixture
def run_name() -> str:
    """A run's name that nothing else uses."""
    return f"run-{uuid.uuid4().hex[:12]}"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    """A started server that the test may kill."""
    with RedisServer(fsync="always") as server:
        server.start(tmp_path / "redis")
        yield server
