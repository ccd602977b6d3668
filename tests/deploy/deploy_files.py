"""The files of `deploy/`, and the programs that check them."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

DEPLOY = Path(__file__).parents[2] / "deploy"

SCHEMAS = "ISENTROPE_SCHEMAS"
"""Environment variable with the folder of published schemas, which are too large to be kept here."""


def tool(name: str) -> str:
    """Return a checker's program: beside this Python, or on PATH; skip the test where there is none."""
    found = shutil.which(name, path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if found is None:
        pytest.skip(f"{name} is not installed: make test installs requirements/deploy.txt")
    return found


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
