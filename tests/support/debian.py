"""Programs of Debian's packages, for tests: unpacked beside the environment, and not installed."""

import contextlib
import fcntl
import functools
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

FETCH_S = 60.0
"""Time limit of one command: without a network a test is skipped, and does not wait for long."""

DONE = ".unpacked"


@functools.cache
def program(name: str, packages: Sequence[str]) -> str:
    """Return the path of a program out of packages, the last of which may be libraries that it needs; empty: they
    cannot be had here. What was unpacked once is there for later sessions."""
    with _place(name) as place:
        if not (place / DONE).exists() and not _unpack(place, packages):
            return ""
        found = next(iter(sorted(place.glob(f"usr/*bin/{name}"))), None)
        return "" if found is None else str(_with_libraries(found, place))


def _unpack(place: Path, packages: Sequence[str]) -> bool:
    """Fetch packages and unpack them; a machine that was just set up has no list of packages yet."""
    fetch = ["apt-get", "download", *packages]
    if not _does(fetch, place) and not (_does(["apt-get", "update"], place) and _does(fetch, place)):
        return False
    if all(_does(["dpkg-deb", "--extract", str(each), "."], place) for each in place.glob("*.deb")):
        (place / DONE).touch()
    return (place / DONE).exists()


def _with_libraries(found: Path, place: Path) -> Path:
    """Return a program that finds the libraries beside it."""
    folders = sorted({str(path.parent) for path in place.rglob("lib*.so.*")})
    if not folders:
        return found
    script = place / found.name
    script.write_text(f'#!/bin/sh\nLD_LIBRARY_PATH="{":".join(folders)}" exec "{found}" "$@"\n')
    script.chmod(0o755)
    return script


def _does(command: Sequence[str], folder: Path) -> bool:
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, timeout=FETCH_S, check=False)
    except (OSError, subprocess.SubprocessError):
        return False
    return done.returncode == 0


@contextlib.contextmanager
def _place(name: str) -> Iterator[Path]:
    """Yield the folder of a program, which other sessions do not change meanwhile."""
    place = Path(sys.prefix) / "debian" / name
    if not os.access(sys.prefix, os.W_OK) or shutil.which("apt-get") is None:
        place = Path(tempfile.mkdtemp(prefix=f"isentrope-{name}-"))
    place.mkdir(parents=True, exist_ok=True)
    with (place / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield place
