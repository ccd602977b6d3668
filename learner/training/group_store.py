"""The trained batches of a run, kept in its folder: of each its plan, how it was trained, and its groups' payloads.

    <output_dir>/groups/<batch>-<learner>    what learner <learner> has trained as batch <batch>

A file is a `BatchRecord` with its groups (`kept_groups.py`). It is written when the batch is trained, and a checkpoint
only after the batches that it covers. A learner that starts again repeats batches under a number of its own, so no file
is written twice; which of them led to a checkpoint follows from the chain of plans in its ledger.
"""

import logging
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pydantic import BaseModel, ConfigDict

from isentrope.errors import StorageError
from isentrope.learner.intake.buffer import ReadyBatch
from isentrope.learner.intake.plan_record import PlanRecord
from isentrope.learner.training.checkpoint_store import FileFacts
from isentrope.learner.training.circumstances import Circumstances
from isentrope.learner.training.kept_groups import RESTORE, KeptGroup, encoded, groups_in, opened, packed, record_in
from isentrope.rollout.wire.files import write_whole
from isentrope.rollout.wire.types import Group

GROUPS = "groups"
"""Folder of the kept batches in that of the run."""

MAX_UNWRITTEN_BYTES = 1 << 30
"""Bytes of batches in memory, which the disk has refused, above which the run ends."""

_NAME = re.compile(r"(\d+)-(\d+)")

logger = logging.getLogger(__name__)


class BatchRecord(BaseModel):
    """One kept batch, without its payloads."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")

    plan: PlanRecord
    circumstances: Circumstances
    groups: tuple[KeptGroup, ...]
    """As the payloads follow each other."""
    skipped: bool = False
    """True if no update of it had a finite loss and gradient, so that the weights after it are those before it."""


@dataclass(frozen=True, slots=True)
class KeptBatch:
    """One kept batch as it is read."""

    record: BatchRecord
    groups: tuple[Group, ...]


class Writer(Protocol):
    """Writer of a checkpoint's tensors: `RankGroup`."""

    def save(self, folder: Path, batch: int) -> dict[str, FileFacts]: ...


class GroupKeeper:
    """The kept batches that one learner writes."""

    def __init__(self, output_dir: Path, incarnation: int, writer: Writer) -> None:
        self._folder = output_dir / GROUPS
        self._incarnation = incarnation
        self._writer = writer
        self._unwritten: dict[Path, bytes] = {}

    def keep(self, batch: ReadyBatch, circumstances: Circumstances, *, skipped: bool = False) -> None:
        """Write a batch that was trained or skipped. One that cannot be written is tried again before the next
        checkpoint.

        Raises:
            StorageError: those that wait are too large for memory; the next learner trains them again.
        """
        path = self._folder / f"{batch.record.batch}-{self._incarnation}"
        self._unwritten[path] = encode(batch, circumstances, skipped=skipped)
        try:
            self._write()
        except OSError as error:
            waiting = sum(map(len, self._unwritten.values()))
            if len(self._unwritten) > 1 and waiting > MAX_UNWRITTEN_BYTES:
                raise self._refused(error) from None
            logger.warning("the groups of batch %d are not kept yet: %s", batch.record.batch, error)

    def save(self, folder: Path, batch: int) -> dict[str, FileFacts]:
        """Write what is not kept yet, then the checkpoint's tensors, whose files are returned.

        Raises:
            StorageError: either cannot be written.
        """
        try:
            self._write()
        except OSError as error:
            raise self._refused(error) from None
        return self._writer.save(folder, batch)

    def _refused(self, error: OSError) -> StorageError:
        return StorageError(
            f"the groups of {len(self._unwritten)} batches cannot be kept: {error}",
            where=str(self._folder),
            fix="free the disk; the same command goes on from the last checkpoint",
        )

    def _write(self) -> None:
        self._folder.mkdir(exist_ok=True)
        for path, content in list(self._unwritten.items()):
            write_whole(path, content, durable=True)
            del self._unwritten[path]


class KeptBatches:
    """The kept batches of a run, to be read."""

    def __init__(self, output_dir: Path) -> None:
        self.folder = output_dir / GROUPS
        self._names: dict[int, list[int]] = {}
        for path in self.folder.glob("*-*"):
            if (name := _NAME.fullmatch(path.name)) is not None:
                self._names.setdefault(int(name[1]), []).append(int(name[2]))

    def leading_to(self, batch: int, chain: str, incarnation: int, *, after: int) -> Iterator[Path]:
        """Yield the files of the batches that led to a checkpoint, the newest first, down to that after batch `after`
        or to one that was not kept.

        Args:
            batch: number of batches of the checkpoint.
            chain: digest of its plans, as its ledger holds it.
            incarnation: number of the learner that wrote it.
            after: batches that are left out.

        Raises:
            StorageError: a file's record is damaged, or none of the files of a batch is of this chain.
        """
        for number in range(batch, after, -1):
            own = sorted((each for each in self._names.get(number, ()) if each <= incarnation), reverse=True)
            if not own:
                return
            records = {each: read_record(self.folder / f"{number}-{each}") for each in own}
            fitting = [each for each in own if records[each].plan.after == chain]
            if not fitting:
                raise StorageError(
                    f"no kept plan of batch {number} is that of the run",
                    where=", ".join(str(self.folder / f"{number}-{each}") for each in own),
                    fix=RESTORE,
                )
            incarnation = fitting[0]
            chain = records[incarnation].plan.chain
            yield self.folder / f"{number}-{incarnation}"


def encode(batch: ReadyBatch, circumstances: Circumstances, *, skipped: bool = False) -> bytes:
    """Return the file of a batch."""
    groups, payloads = encoded(batch.groups)
    record = BatchRecord(plan=batch.record, circumstances=circumstances, groups=groups, skipped=skipped)
    return packed(record, payloads)


def read_record(path: Path) -> BatchRecord:
    """Return the record of a kept batch; StorageError if it is damaged."""
    return record_in(path, BatchRecord)


def read_batch(path: Path) -> KeptBatch:
    """Return a kept batch.

    Raises:
        StorageError: the plan or a payload is damaged; it says which.
    """
    record, content = opened(path, BatchRecord)
    return KeptBatch(record, tuple(groups_in(path, record.groups, content)))


def sizes(output_dir: Path) -> Mapping[int, int]:
    """Return the bytes kept of each batch, by the newest learner that trained it."""
    kept: dict[int, tuple[int, int]] = {}
    for path in (output_dir / GROUPS).glob("*-*"):
        if (name := _NAME.fullmatch(path.name)) is not None:
            found = int(name[2]), path.stat().st_size
            kept[int(name[1])] = max(kept.get(int(name[1]), found), found)
    return {batch: size for batch, (_, size) in kept.items()}
