"""Commands for the tests of whole runs."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from whole_commands import Command, Start


@pytest.fixture(scope="module")
def start() -> Iterator[Start]:
    """Starts commands; ends those that a failed test has left."""
    commands: list[Command] = []

    def start(*arguments: str, folder: Path, env: dict[str, str] | None = None, hidden: Path | None = None) -> Command:
        commands.append(Command(*arguments, folder=folder, env=env, hidden=hidden))
        return commands[-1]

    yield start
    for command in commands:
        command.close()
