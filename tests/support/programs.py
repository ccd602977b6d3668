"""Programs that tests call."""

import os
import shutil
import sys
from pathlib import Path

import pytest


def program(name: str, without: str) -> str:
    """Return a program beside this Python or on PATH; skip the test where there is none, and say `without` what."""
    places = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    found = shutil.which(name, path=places)
    if found is None:
        pytest.skip(f"{name} is not installed: {without}")
    return found
