"""Bubblewrap for tests: the machine's, or Debian's package, unpacked beside the tests and not installed."""

import functools
import shutil
import subprocess
import tempfile
from pathlib import Path

FETCH_S = 60.0


@functools.cache
def bubblewrap() -> str:
    """Return the folder of a bwrap that makes sandboxes here; empty: there is none, and none can be had."""
    found = shutil.which("bwrap")
    folder = str(Path(found).parent) if found else _unpacked()
    return folder if folder and _works(folder) else ""


def _unpacked() -> str:
    """Fetch the package and unpack it; return the folder of its program, "" if that fails."""
    place = Path(tempfile.mkdtemp(prefix="isentrope-bwrap-"))
    commands = (["apt-get", "download", "bubblewrap"], ["sh", "-c", f"dpkg -x bubblewrap_*.deb {place}"])
    try:
        for command in commands:
            subprocess.run(command, cwd=place, check=True, capture_output=True, timeout=FETCH_S)
    except (OSError, subprocess.SubprocessError):
        return ""
    return str(place / "usr" / "bin")


def _works(folder: str) -> bool:
    command = [f"{folder}/bwrap", "--unshare-all", "--ro-bind", "/", "/", "true"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0
