"""Dead letters: plans that have killed the ranks, kept in the run's folder with their groups. Loads no torch.

    <output_dir>/dead_letters/<batch>-<learner>-<digest>          the plan and its groups, written when it is retired
    <output_dir>/dead_letters/<batch>-…-<digest>.<seq>.requeue    an operator wants this group of it trained after all

The folder, and not the broker, says what is dead: a learner that starts from a checkpoint before the retirement retires
the same groups again, whatever the broker has kept, and it opens again what was requeued. Payloads would also take from
the broker's byte budget, without which no order is issued. The broker has a list of what is here, for those who do not
see the folder.
"""

import logging
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, TypeAdapter

from isentrope.errors import StorageError
from isentrope.learner.intake.buffer import ReadyBatch
from isentrope.learner.intake.ledger import Ledger
from isentrope.learner.intake.plan_record import PlanRecord
from isentrope.learner.training.kept_groups import KeptGroup, encoded, groups_in, opened, packed, record_in
from isentrope.rollout.wire.files import sync, write_whole

FOLDER = "dead_letters"
"""Folder of the dead letters in that of the run."""

REQUEUE = ".requeue"
"""Suffix of the mark of a group that is requeued."""

MAX_LETTERS = 256
MAX_BYTES = 1 << 30
"""Letters, and their bytes, above which the oldest are deleted once a checkpoint covers them."""

DIGITS = 8
"""Digits of a plan's digest in the name of its letter."""

_NAME = re.compile(r"(\d{1,18})-(\d{1,18})-[0-9a-f]{8}")
_REQUEUE = re.compile(rf"({_NAME.pattern})\.(\d{{1,18}})")

logger = logging.getLogger(__name__)


class LetterRecord(BaseModel):
    """One dead letter, without its payloads."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    plan: PlanRecord
    incarnation: int
    """Number of the learner that retired it."""
    deaths: int
    """Deaths of the ranks, one after another, while they trained it."""
    at: float
    """Time of its retirement, in seconds of Unix time."""
    groups: tuple[KeptGroup, ...]

    @property
    def name(self) -> str:
        """Name of the letter."""
        return f"{self.plan.batch}-{self.incarnation}-{self.plan.after[:DIGITS]}"


class DeadGroup(BaseModel):
    """One group of a dead letter, in its JSON form."""

    model_config = ConfigDict(frozen=True)

    seq: int
    actor: str
    bytes: int
    requeued: bool
    responses: int | None = None
    """Responses; null: its payload was not read."""
    longest: int | None = None
    """Tokens of the longest response; null: as above."""


class DeadLetter(BaseModel):
    """One dead letter, in its JSON form."""

    model_config = ConfigDict(frozen=True)

    name: str
    batch: int
    """Batch that it was to be."""
    deaths: int
    at: float
    """Time of its retirement, in seconds of Unix time."""
    groups: tuple[DeadGroup, ...]


LETTERS = TypeAdapter(tuple[DeadLetter, ...])


class DeadLetters:
    """The dead letters of one run."""

    def __init__(self, output_dir: Path) -> None:
        self._folder = output_dir / FOLDER

    def __len__(self) -> int:
        return len(self._names())

    @property
    def names(self) -> frozenset[str]:
        """Names of all letters."""
        return frozenset(self._names())

    def write(self, batch: ReadyBatch, incarnation: int, deaths: int) -> str:
        """Keep a batch, and return the letter's name; OSError if it cannot be written."""
        groups, payloads = encoded(batch.groups)
        record = LetterRecord(plan=batch.record, incarnation=incarnation, deaths=deaths, at=time.time(), groups=groups)
        self._folder.mkdir(exist_ok=True)
        write_whole(self._folder / record.name, packed(record, payloads), durable=True)
        return record.name

    def records(self) -> Iterator[LetterRecord]:
        """Yield the letters, the oldest first; one that is damaged is left out, with a warning."""
        for name in self._names():
            try:
                yield record_in(self._folder / name, LetterRecord)
            except StorageError as error:
                logger.warning("%s (%s)", error.what, error.where)

    def letters(self) -> tuple[DeadLetter, ...]:
        """Return what the letters hold, the oldest first, without reading their payloads."""
        marked = self.requeues()
        return tuple(_letter(record, marked) for record in self.records())

    def letter(self, name: str) -> DeadLetter:
        """Return what one letter holds; StorageError if it is damaged."""
        path = self._folder / name
        record, content = opened(path, LetterRecord)
        plain = _letter(record, self.requeues())
        lengths = [[len(each.tokens) for each in group.responses] for group in groups_in(path, record.groups, content)]
        groups = tuple(
            group.model_copy(update={"responses": len(own), "longest": max(own, default=0)})
            for group, own in zip(plain.groups, lengths, strict=True)
        )
        return plain.model_copy(update={"groups": groups})

    def requeues(self) -> dict[str, int]:
        """Return the seqs that an operator wants trained, by the names of the requeues."""
        marks = (path.name.removesuffix(REQUEUE) for path in self._folder.glob(f"*{REQUEUE}"))
        return {name: int(found[4]) for name in marks if (found := _REQUEUE.fullmatch(name))}

    def requeue(self, name: str) -> bool:
        """Mark a group, by the name of its requeue; False: there is no such letter. Marked again, nothing changes.

        Raises:
            OSError: the disk refuses it.
        """
        found = _REQUEUE.fullmatch(name)
        if found is None or not (self._folder / found[1]).is_file():
            return False
        (self._folder / f"{name}{REQUEUE}").touch()
        sync(self._folder)
        return True

    def restore(self, ledger: Ledger) -> None:
        """Record in the ledger of a checkpoint what was retired and requeued after it, and delete the oldest letters
        of too many.

        A group can be in two letters of one batch and learner, whose names tell no order. Only what was requeued can
        die again, so a letter that is not marked is the later one.
        """
        marked, records = self.requeues(), list(self.records())
        self._prune([record for record in records if _is_covered(record, ledger)])
        told = [
            (record.incarnation, record.plan.batch, name not in marked, seq, name)
            for record in records
            for seq, name in _requeue_names(record).items()
        ]
        for _, _, is_dead, seq, name in sorted(told):
            ledger.retire_poison(seq, name)
            if not is_dead:
                ledger.requeue(seq, name)

    def _names(self) -> list[str]:
        """Return the names of all letters, the oldest first: learners follow each other, and batches of one learner;
        those of one batch in any order."""
        found = [match for path in self._folder.glob("*-*-*") if (match := _NAME.fullmatch(path.name))]
        return [match[0] for match in sorted(found, key=lambda match: (int(match[2]), int(match[1]), match[0]))]

    def _prune(self, covered: Sequence[LetterRecord]) -> None:
        sizes = {name: path.stat().st_size for name in self._names() if (path := self._folder / name).is_file()}
        for record in covered:
            if len(sizes) <= MAX_LETTERS and sum(sizes.values()) <= MAX_BYTES:
                return
            try:
                for path in [self._folder / record.name, *self._folder.glob(f"{record.name}.*")]:
                    path.unlink()
            except OSError as error:
                logger.warning("dead letter %s of too many cannot be deleted: %s", record.name, error)
                return
            logger.warning("dead letter %s is deleted: there are too many", record.name)
            sizes.pop(record.name, None)


def requeue_name(letter: str, seq: int) -> str:
    """Return the name of the requeue of one group of a letter."""
    return f"{letter}.{seq}"


def _requeue_names(record: LetterRecord) -> dict[int, str]:
    return {group.seq: requeue_name(record.name, group.seq) for group in record.plan.groups}


def _is_covered(record: LetterRecord, ledger: Ledger) -> bool:
    """Return True if a checkpoint's ledger says what became of every group of a letter."""
    return all(ledger.known(group.seq) for group in record.plan.groups)


def _letter(record: LetterRecord, marked: Mapping[str, int]) -> DeadLetter:
    names = _requeue_names(record)
    groups = tuple(
        DeadGroup(
            seq=(seq := int(kept.header["seq"])),
            actor=str(kept.header["actor"]),
            bytes=kept.size_bytes,
            requeued=names[seq] in marked,
        )
        for kept in record.groups
    )
    return DeadLetter(name=record.name, batch=record.plan.batch, deaths=record.deaths, at=record.at, groups=groups)
