"""An empty disk of a few pages that one forked process sees in place of a folder: writes to it end in a real ENOSPC."""

import ctypes
import json
import os
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

PAGE = os.sysconf("SC_PAGE_SIZE")

_NEW_NAMESPACE, _NEW_USER = 0x00020000, 0x10000000
_PRIVATE = 0x44000
"""All mounts, for this namespace alone."""


def on_small_disk(folder: Path, pages: int, work: Callable[[], Any]) -> Any:
    """Return what `work` returns, as JSON has it, in a fork that finds the disk at `folder`; skip the test where this
    user may not mount."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        with os.fdopen(writing, "w") as answer:
            answer.write(json.dumps(_answer(folder, pages, work)))
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as answer:
        found = json.loads(answer.read() or '{"failed": "the process has ended"}')
    os.waitpid(child, 0)
    if "refused" in found:
        pytest.skip(f"no rights to mount: {found['refused']}")
    assert "failed" not in found, found["failed"]
    return found["seen"]


def _answer(folder: Path, pages: int, work: Callable[[], Any]) -> dict[str, Any]:
    try:
        _mount(folder, pages)
    except OSError as error:
        return {"refused": str(error)}
    try:
        return {"seen": work()}
    except BaseException:
        return {"failed": traceback.format_exc()}


def _mount(folder: Path, pages: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)

    def call(name: str, *arguments: object) -> None:
        if getattr(libc, name)(*arguments):
            raise OSError(ctypes.get_errno(), f"{name}: {os.strerror(ctypes.get_errno())}")

    call("unshare", _NEW_NAMESPACE if os.geteuid() == 0 else _NEW_NAMESPACE | _NEW_USER)
    call("mount", b"none", b"/", None, ctypes.c_ulong(_PRIVATE), None)
    size = f"size={pages * PAGE},huge=never".encode()
    call("mount", b"tmpfs", os.fsencode(folder), b"tmpfs", ctypes.c_ulong(0), size)


def leave_free(filler: Path, pages: int) -> None:
    """Fill the disk of a file but for so many pages."""
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(PAGE))
        except OSError:
            file.truncate(max(0, file.tell() // PAGE - pages) * PAGE)
