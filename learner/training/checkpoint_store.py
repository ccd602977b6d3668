"""Checkpoints as folders: which learner may write them, which one counts, which are kept. Does not import torch.

    checkpoints/claims/<n>             learner n exists, and the checkpoint it started from; made once, never changed
    checkpoints/latest.<n>             the newest checkpoint of learner n
    checkpoints/step-<batch>-<n>/      one checkpoint; complete under this name, unfinished under `….tmp`
        state.json                     state of the run, besides the tensors
        critic/                        state of the critic, if the method has one
        manifest.json                  size and digest of every other file; what is not listed is not loaded

A learner claims a number by exclusive creation, so two can never share one. It starts from the newest claim's own
newest checkpoint or, if there is none, from that claim's parent: a learner that does not know it was replaced moves
only its own pointer, which is no longer read.

A file that is missing or damaged never means that there was nothing. Without its pointer a learner's newest finished
folder counts, without its parent the newest of the learners before it: each finished folder is a whole state of the
run. Only what an own checkpoint that descends from it replaces is deleted.
"""

import itertools
import json
import logging
import os
import re
import secrets
import shutil
import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from isentrope.errors import FencedError, StorageError
from isentrope.learner.intake.ledger import LedgerState
from isentrope.learner.training.fault_points import crash_point
from isentrope.rollout.wire.control import Mode
from isentrope.rollout.wire.digests import ALGORITHM, algorithm_of, digest_file
from isentrope.rollout.wire.files import UNFINISHED, sync, write_whole

CHECKPOINTS = "checkpoints"
"""Folder of the checkpoints in that of the run."""

STATE = "state.json"
MANIFEST = "manifest.json"

_NAME = re.compile(r"step-(\d{1,18})-(\d{1,18})")
_POINTER = re.compile(r"latest\.(\d{1,18})")

CRITIC = "critic"
"""Folder of the critic's state in a checkpoint: its files have the names of the policy's."""

LOADED = "*.pt"
"""Files that ranks load: an unlisted one is not what was saved."""

logger = logging.getLogger(__name__)


class FileFacts(BaseModel):
    """Size and digest of one file, as a manifest states them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    size_bytes: Annotated[int, Field(ge=0)]
    digest: str


class CheckpointState(BaseModel):
    """State from which a learner continues, besides the tensors."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")

    config_digest: str
    data_digest: str
    mode: Mode
    """Mode in force, which an operator may have changed."""
    ledger: LedgerState
    controllers: dict[str, dict[str, float]] = {}
    """State of the objective's controllers."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A learner's number and the checkpoint it starts from; empty: from the beginning. nonce: random: two learners of
    one number, on copies of the storage, differ in it."""

    incarnation: int
    parent: str
    nonce: str


class CheckpointStore:
    """The checkpoints of one run, for rank 0 of one learner."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._claims = root / "claims"
        self.claimed = Claim(0, "", "")
        self._start = ""
        self._warned: set[str] = set()

    def claim(self) -> Claim:
        """Claim the next learner number of this run.

        Raises:
            StorageError: the folder cannot be written, or a claim cannot be read.
        """
        _made(self._claims)
        try:
            while True:
                newest = max(self.newest_claim(), *self._numbers())
                claim = Claim(newest + 1, self._newest(newest) or self._parent(newest), secrets.token_hex(16))
                if self._create(claim):
                    self.claimed, self._start = claim, claim.parent
                    return claim
        except StorageError:
            raise
        except OSError as error:
            raise StorageError(f"claim cannot be written: {error.strerror or error}", where=str(self._claims)) from None

    def newest_claim(self) -> int:
        """Return the number of the newest learner; 0: none yet."""
        return max((int(path.name) for path in self._claims.iterdir() if path.name.isdecimal()), default=0)

    def lineage(self) -> Iterator[str]:
        """Yield the checkpoints this learner may start from, the best first: its own, its parent, that one's parent,
        …."""
        incarnation, bound = self.claimed.incarnation, self._newest(self.claimed.incarnation)
        while incarnation:
            if bound:
                yield from (name for name in self._finished(incarnation) if _parse(name)[0] <= _parse(bound)[0])
            bound = self._parent(incarnation)
            incarnation = _parse(bound)[1] if bound else 0

    def trace(self) -> str:
        """Return what shows that there was a checkpoint before this learner; empty: nothing does."""
        pointers = [f"latest.{number} is there" for number in self._pointers()]
        parents = [f"claim {number} names {said}" for number in self._claimants() if (said := self._said(number))]
        return next(iter([*(f"{name} is there" for name in _existing(self.root)), *pointers, *parents]), "")

    def has_claims(self) -> bool:
        """Return True if a learner has claimed a number here."""
        return bool(self._claimants())

    def continue_from(self, name: str) -> None:
        """Record which checkpoint of the lineage this learner starts from: those after it could not be read."""
        self._start = name

    def folder(self, name: str) -> Path:
        """Return the folder of a finished checkpoint."""
        return self.root / name

    def unfinished(self, name: str) -> Path:
        """Return the folder in which a checkpoint is written."""
        return self.root / (name + UNFINISHED)

    def files(self, name: str) -> dict[str, FileFacts]:
        """Return the manifest of a checkpoint; StorageError if it cannot be read."""
        path = self.folder(name) / MANIFEST
        try:
            table = json.loads(path.read_bytes())
            files = {str(file): FileFacts.model_validate(facts) for file, facts in table["files"].items()}
        except (OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
            raise StorageError(f"checkpoint cannot be read: {error}", where=str(path)) from None
        needed = {
            STATE,
            *(shard.relative_to(self.folder(name)).as_posix() for shard in self.folder(name).rglob(LOADED)),
        }
        if needed - files.keys():
            raise StorageError(f"the manifest does not list {min(needed - files.keys())}", where=str(path))
        return files

    def state(self, name: str) -> CheckpointState:
        """Return the state in a verified checkpoint; StorageError if it cannot be read."""
        path = self.folder(name) / STATE
        try:
            return CheckpointState.model_validate_json(path.read_bytes())
        except (OSError, ValidationError) as error:
            raise StorageError(f"checkpoint cannot be read: {error}", where=str(path)) from None

    # --- writing

    def begin(self, batch: int) -> str:
        """Create the unfinished, empty folder of a new checkpoint, and return its name."""
        name = f"step-{batch}-{self.claimed.incarnation}"
        self.discard(name)
        if self.folder(name).exists():  # finished, but its pointer could not be written
            self._take_back(name)
        _made(self.unfinished(name))
        return name

    def discard(self, name: str) -> None:
        """Remove an unfinished checkpoint."""
        shutil.rmtree(self.unfinished(name), ignore_errors=True)

    def finish(self, name: str, state: CheckpointState, files: Mapping[str, FileFacts]) -> None:
        """Finish the checkpoint whose `files` are written and synced: with the last rename it becomes the newest.

        Raises:
            FencedError: a newer learner has claimed the run.
            StorageError: a file cannot be written.
        """
        batch, _ = _parse(name)
        unfinished = self.unfinished(name)
        write_whole(unfinished / STATE, state.model_dump_json(indent=1), durable=True)
        table = {**files, STATE: facts_of(unfinished / STATE)}
        crash_point("commit.before_manifest", batch)
        manifest = json.dumps({"files": {file: table[file].model_dump() for file in sorted(table)}})
        write_whole(unfinished / MANIFEST, manifest, durable=True)
        if (newest := self.newest_claim()) > self.claimed.incarnation:
            raise FencedError(
                f"fenced: learner {newest} took over from {self.claimed.incarnation}",
                where=str(self._claims),
                fix="do not restart",
            )
        unfinished.rename(self.folder(name))
        sync(self.root)
        crash_point("commit.before_pointer", batch)
        write_whole(self.root / f"latest.{self.claimed.incarnation}", name, durable=True)

    def prune(self, keep: int) -> None:
        """Delete the checkpoints that own ones replace: all but the `keep` newest of this learner and of what it
        started from, up to the batch of its own newest; what earlier learners have left unfinished; nothing once there
        is a newer learner."""
        own = self.claimed.incarnation
        saved = self._finished(own)
        if not saved or self.newest_claim() > own:
            return
        start, ancestors = self._start, (name for name in self.lineage() if name not in saved)
        descent = itertools.dropwhile(lambda name: name != start, ancestors) if start else ()
        kept = set([*saved, *descent][:keep])
        for path in self.root.glob("step-*"):
            name = path.name.removesuffix(UNFINISHED)
            if not _NAME.fullmatch(name):
                continue
            batch, incarnation = _parse(name)
            if path.name.endswith(UNFINISHED):
                replaced = incarnation < own
            else:
                replaced = incarnation <= own and batch <= _parse(saved[0])[0] and name not in kept
            if replaced:
                shutil.rmtree(path, ignore_errors=True)

    # --- private

    def _numbers(self) -> list[int]:
        """Return the numbers of all learners that have left a trace beside their claims, and 0."""
        return [0, *self._pointers(), *(_parse(name)[1] for name in _existing(self.root))]

    def _pointers(self) -> list[int]:
        return [int(match[1]) for path in self.root.glob("latest.*") if (match := _POINTER.fullmatch(path.name))]

    def _claimants(self) -> list[int]:
        return [int(path.name) for path in self._claims.glob("*") if path.name.isdecimal()]

    def _finished(self, incarnation: int) -> list[str]:
        """Return the finished checkpoints of one learner, the newest first."""
        own = [name for name in _existing(self.root) if _parse(name)[1] == incarnation]
        return sorted(own, key=_parse, reverse=True)

    def _newest(self, incarnation: int) -> str:
        """Return the newest checkpoint of one learner: the one its pointer names, else its newest finished one."""
        pointer = self.root / f"latest.{incarnation}"
        named = _text(pointer)
        if (match := _NAME.fullmatch(named)) and int(match[2]) == incarnation:
            return named
        found = next(iter(self._finished(incarnation)), "")
        if found or pointer.exists():
            self._warn(f"{pointer} does not name a checkpoint; {found or 'that of an earlier learner'} is taken")
        return found

    def _parent(self, incarnation: int) -> str:
        """Return the checkpoint that one learner started from: as its claim says, else the newest of those before."""
        if said := self._said(incarnation):
            return said
        earlier = max((number for number in self._numbers() if number < incarnation), default=0)
        found = (self._newest(earlier) or self._parent(earlier)) if earlier else ""
        if found:
            self._warn(f"claim {incarnation} names no checkpoint; {found} is taken")
        return found

    def _said(self, incarnation: int) -> str:
        """Return the parent that a claim states; empty: it states none that can be one."""
        try:
            said = str(json.loads(_text(self._claims / str(incarnation)))["parent"])
        except (ValueError, KeyError, TypeError, RecursionError):
            return ""
        match = _NAME.fullmatch(said)
        return said if match and int(match[2]) < incarnation else ""

    def _warn(self, text: str) -> None:
        """Log a warning, once."""
        if text not in self._warned:
            self._warned.add(text)
            logger.warning("%s", text)

    def _take_back(self, name: str) -> None:
        try:
            self.folder(name).rename(self.unfinished(name))
        except OSError as error:
            raise StorageError(f"folder cannot be renamed: {error.strerror}", where=str(self.folder(name))) from None
        self.discard(name)

    def _create(self, claim: Claim) -> bool:
        """Write a claim; return False if another learner was faster."""
        facts = {"parent": claim.parent, "nonce": claim.nonce, "host": socket.gethostname(), "pid": os.getpid()}
        return _create_exclusively(self._claims / str(claim.incarnation), json.dumps(facts))


def facts_of(path: Path, algorithm: str = ALGORITHM) -> FileFacts:
    """Return the size and digest of a file."""
    return FileFacts(size_bytes=path.stat().st_size, digest=digest_file(path, algorithm))


def newest_batch(root: Path) -> int:
    """Return the largest batch of a finished checkpoint in `root`; -1: there is none."""
    return max((_parse(name)[0] for name in _existing(root)), default=-1)


def verify(folder: Path, files: Mapping[str, FileFacts], share: Sequence[str]) -> str:
    """Return what is wrong with the files `share` of a checkpoint; empty: nothing."""
    for file in share:
        path = folder / file
        if not path.is_file():
            return f"{path} is missing"
        if (actual := facts_of(path, algorithm_of(files[file].digest))) != files[file]:
            return f"{path} is {actual}, not {files[file]}"
    return ""


def _text(path: Path) -> str:
    """Return what a file of one line holds; empty if it cannot be read."""
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return ""


def _existing(root: Path) -> list[str]:
    return [path.name for path in root.glob("step-*") if _NAME.fullmatch(path.name)]


def _parse(name: str) -> tuple[int, int]:
    """Return (batch, incarnation) of a checkpoint's name."""
    match = _NAME.fullmatch(name)
    if match is None:
        raise StorageError(f"not a checkpoint name: {name!r}", fix="remove it, or restore the folder of checkpoints")
    return int(match[1]), int(match[2])


def _made(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"folder cannot be created: {error.strerror}", where=str(folder)) from None


def _create_exclusively(path: Path, text: str) -> bool:
    """Create `path` with its content, by a link, so that it is never empty; return False if it exists."""
    unfinished = path.with_name(f"{path.name}-{secrets.token_hex(8)}{UNFINISHED}")
    write_whole(unfinished, text, durable=True)
    try:
        os.link(unfinished, path)
    except FileExistsError:
        return False
    finally:
        unfinished.unlink()
    sync(path.parent)
    return True
