"""The files of `deploy/`, and the programs that check them."""

import os
import subprocess
from pathlib import Path

import pytest
from programs import program

DEPLOY = Path(__file__).parents[2] / "deploy"

SCHEMAS = "ISENTROPE_SCHEMAS"
"""Environment variable with the folder of published schemas, which are too large to be kept here."""


def tool(name: str) -> str:
    """Return a checker's program; skip the test where there is none."""
    return program(name, "make test installs requirements/deploy.txt")


def checked(name: str, *arguments: str | Path, cwd: Path = DEPLOY.parent) -> "subprocess.CompletedProcess[str]":
    """Return how a checker ended."""
    command = [tool(name), *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=60)


def schema(name: str) -> Path:
    """Return a published schema; skip the test without the folder of them."""
    folder = os.environ.get(SCHEMAS)
    if not folder:
        pytest.skip(f"{SCHEMAS} names no folder of schemas")
    return Path(folder) / name
