"""Ranks as real processes, started and ended together as torchrun does it, but forked: see `forks.py`."""

import os
import runpy
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from types import FrameType

import forks

KILL_AFTER_S = 30.0
"""Time that other ranks have to end after one has failed."""


@dataclass(frozen=True)
class Ranks:
    """What is to run."""

    script: str
    arguments: tuple[str, ...]
    log: str
    count: int
    environment: Mapping[str, str]
    """Added to that of the tests."""


def start(ranks: Ranks) -> ForkServerProcess:
    """Start a process that starts the ranks, and fails with the first that fails."""
    process = forks.context().Process(target=_launch, args=(ranks, dict(os.environ)))
    process.start()
    return process


def _launch(ranks: Ranks, environment: dict[str, str]) -> None:
    from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]
    from torch.multiprocessing.spawn import start_processes

    file = os.open(ranks.log, os.O_WRONLY | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(file, stream)
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # as torchrun: it outlives any rank
    os.environ.update(environment | forks.FIXED | dict(ranks.environment))
    os.environ.update(
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(store.port),
        WORLD_SIZE=str(ranks.count),
        LOCAL_WORLD_SIZE=str(ranks.count),
        TORCHELASTIC_USE_AGENT_STORE="True",
        TORCHELASTIC_RESTART_COUNT="0",
    )
    signal.signal(signal.SIGTERM, _exit)
    started = start_processes(_run, (ranks,), ranks.count, join=False, start_method="fork")
    assert started is not None, "it does not join them itself"
    try:
        while not started.join(grace_period=KILL_AFTER_S):
            pass
    finally:
        for process in started.processes:
            if process is not None:
                process.kill()


def _exit(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def _run(rank: int, ranks: Ranks) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank))
    sys.argv = [ranks.script, *ranks.arguments]
    sys.path.insert(0, str(Path(ranks.script).parent))
    runpy.run_path(ranks.script, run_name="__main__")
