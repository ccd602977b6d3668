"""Checkpoints as folders: which learner may write them, which one counts, which are kept. Does not import torch.

    checkpoints/claims/<n>             learner n exists, and the checkpoint it started from; made once, never changed
    checkpoints/latest.<n>             the newest checkpoint of learner n
    checkpoints/step-<batch>-<n>/      one checkpoint; complete under this name, unfinished under `….tmp`
        state.json                     state of the run, besides the tensors
        manifest.json                  size and digest of every other file; what is not listed is not loaded

A learner claims a number by exclusive creation, so two can never share one. It starts from the newest claim's own
newest checkpoint or, if there is none, from that claim's parent: a learner that does not know it was replaced moves
only its own pointer, which is no longer read.
"""

import json
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

_NAME = re.compile(r"step-(\d+)-(\d+)")


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
    """A learner's number and the checkpoint it starts from; empty: from the beginning."""

    incarnation: int
    parent: str


class CheckpointStore:
    """The checkpoints of one run, for rank 0 of one learner."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._claims = root / "claims"
        self.claimed = Claim(0, "")

    def claim(self) -> Claim:
        """Claim the next learner number of this run.

        Raises:
            StorageError: the folder cannot be written, or a claim cannot be read.
        """
        _made(self._claims)
        while True:
            newest = self.newest_claim()
            claim = Claim(newest + 1, (self._pointer(newest) or self._parent(newest)) if newest else "")
            if self._create(claim):
                self.claimed = claim
                return claim

    def newest_claim(self) -> int:
        """Return the number of the newest learner; 0: none yet."""
        return max((int(path.name) for path in self._claims.iterdir() if path.name.isdecimal()), default=0)

    def lineage(self) -> Iterator[str]:
        """Yield the checkpoints this learner may start from, the best first: its own, its parent, that one's parent, ….

        Raises:
            StorageError: a claim names a later learner's checkpoint as its parent.
        """
        incarnation, bound = self.claimed.incarnation, self._pointer(self.claimed.incarnation)
        while incarnation:
            if bound:
                limit = _parse(bound)[0]
                own = [
                    name for name in _existing(self.root) if _parse(name)[1] == incarnation and _parse(name)[0] <= limit
                ]
                yield from sorted(own, key=_parse, reverse=True)
            bound, claimant = self._parent(incarnation), incarnation
            incarnation = _parse(bound)[1] if bound else 0
            if incarnation >= claimant:
                raise StorageError(f"claim {claimant} names {bound} as its parent", where=str(self._claims))

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
            return {str(file): FileFacts.model_validate(facts) for file, facts in table["files"].items()}
        except (OSError, ValueError, KeyError, AttributeError) as error:
            raise StorageError(f"checkpoint cannot be read: {error}", where=str(path)) from None

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
        assert not self.folder(name).exists(), "a learner saves each batch once"
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
        """Delete checkpoints from which no learner can start: all but the `keep` newest of the lineage and the parent
        that a newer learner has claimed."""
        kept = set(list(self.lineage())[:keep])
        own = self.claimed.incarnation
        kept |= {self._parent(number) for number in range(own + 1, self.newest_claim() + 1)}
        for path in self.root.glob("step-*"):
            name = path.name.removesuffix(UNFINISHED)
            abandoned = path.name.endswith(UNFINISHED) and _parse(name)[1] < own
            if _parse(name)[1] <= own and name not in kept and (abandoned or not path.name.endswith(UNFINISHED)):
                shutil.rmtree(path, ignore_errors=True)

    # --- private

    def _pointer(self, incarnation: int) -> str:
        path = self.root / f"latest.{incarnation}"
        return path.read_text().strip() if path.exists() else ""

    def _parent(self, incarnation: int) -> str:
        return str(json.loads((self._claims / str(incarnation)).read_bytes())["parent"])

    def _create(self, claim: Claim) -> bool:
        """Write a claim; return False if another learner was faster."""
        facts = {"parent": claim.parent, "host": socket.gethostname(), "pid": os.getpid()}
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
