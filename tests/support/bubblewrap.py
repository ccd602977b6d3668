"""Bubblewrap for tests: the machine's, or Debian's."""

import functools
import shutil
import subprocess
from pathlib import Path

from debian import program


@functools.cache
def bubblewrap() -> str:
    """Return the folder of a bwrap that makes sandboxes here; empty: there is none, and none can be had."""
    found = shutil.which("bwrap") or program("bwrap", ("bubblewrap",))
    return str(Path(found).parent) if found and _works(found) else ""


def _works(found: str) -> bool:
    command = [found, "--unshare-all", "--ro-bind", "/", "/", "true"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0
