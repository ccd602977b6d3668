"""Versions of the weights, written by all ranks while training goes on.

Training stands while every rank copies its share (`snapshot.py`). Then a thread of each rank writes its own files and
hashes them on the way; the threads report to each other on a channel of their own, and that of rank 0 writes the
manifest once all files are there. One version is written at a time: there is one copy.
"""

import contextlib
import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from pathlib import Path
from typing import TypeVar

import torch
from pydantic import BaseModel, ConfigDict

from isentrope.errors import StorageError
from isentrope.learner.training.collectives import Channel
from isentrope.learner.training.fault_points import crash_point
from isentrope.learner.training.snapshot import Snapshot
from isentrope.learner.training.weight_files import Shards
from isentrope.learner.training.weight_source import WeightSource
from isentrope.long_waits import waiting_for
from isentrope.rollout.wire.proof import Canary, TensorFacts
from isentrope.rollout.wire.tensor_bits import facts_of
from isentrope.rollout.wire.types import batch_of
from isentrope.rollout.wire.weights import Manifest, Shard, make_manifest, version_folder

T = TypeVar("T")


class _Report(BaseModel):
    """The share of a version that one rank has written."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    problem: str = ""
    """Reason why it could not be written; empty: it was."""
    shards: list[Shard] = []
    tensors: dict[str, TensorFacts] = {}


class VersionWriter:
    """Writer of one rank's share of every version."""

    def __init__(self, source: WeightSource, channel: Channel, output_dir: Path, device: torch.device) -> None:
        """Prepare the memory for copies; `channel` is used by nothing else."""
        self._channel = channel
        self._root = output_dir
        self._snapshot = Snapshot(source, channel, device)
        self._newest: Future[Manifest | None] | None = None

    def begin(self, version: int, canary: Canary) -> "Future[Manifest | None]":
        """Copy the present weights once the former version is written, and write them as `version` in a thread.

        The result is the manifest on rank 0, None on the others; its error is a StorageError if a rank could not write
        its share.
        """
        if self._newest is not None:
            with waiting_for("the former version to be written by all ranks"), contextlib.suppress(StorageError):
                self._newest.result()  # rank 0 has the error, and decides
        self._snapshot.take()
        crash_point("publish.copied", batch_of(version))
        self._newest = _in_thread(lambda: self._write(version, canary))
        return self._newest

    def drain(self) -> None:
        """Wait until the newest version is written, or cannot be."""
        if self._newest is not None:
            with waiting_for("the newest version to be written by all ranks"):
                wait([self._newest])

    def _write(self, version: int, canary: Canary) -> Manifest | None:
        folder = version_folder(self._root, version)
        own = self._write_share(folder)
        crash_point("publish.written", batch_of(version))
        reports = [_Report.model_validate(each) for each in self._channel.gather(own.model_dump(mode="json"))]
        if self._channel.rank:
            return None
        if problems := [report.problem for report in reports if report.problem]:
            raise StorageError(problems[0], where=str(folder))
        crash_point("publish.before_manifest", batch_of(version))
        tensors = {name: facts for report in reports for name, facts in report.tensors.items()}
        shards = [shard for report in reports for shard in report.shards]
        return make_manifest(folder, version=version, tensors=tensors, shards=shards, canary=canary)

    def _write_share(self, folder: Path) -> _Report:
        """Write this rank's files; read the copy to its end even after an error, because others take part in it."""
        shards = Shards(folder, f"weights-{self._channel.rank:05d}")
        for name, value in self._snapshot.published():
            shards.add(name, value, facts_of(value))
        try:
            files = shards.close()
            self._snapshot.check()
        except StorageError as error:
            return _Report(problem=error.what)
        return _Report(shards=files, tensors=dict(shards.table))


def _in_thread(work: Callable[[], T]) -> "Future[T]":
    """Return the future result of `work`, which does not keep a process alive whose other ranks are lost."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, name="publication", daemon=True).start()
    return future
