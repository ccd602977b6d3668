"""The ranks at work: rank 0 orders, every rank does the same thing at the same time. Knows what an order does, not when
it is given.

Only rank 0 talks to the broker. It calls the methods of `RankGroup`; each sends the order to the others, which sit in
`follow`, and then does rank 0's own share. While rank 0 waits for something else it must give `idle` orders, because
the others wait for it with a deadline.
"""

import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from isentrope.errors import ConfigError, IsentropeError, StorageError
from isentrope.kernels.plain import Moments
from isentrope.learner.intake.packing import Arrays
from isentrope.learner.objective.needs import Need, needs
from isentrope.learner.objective.objective import Objective, State
from isentrope.learner.training.checkpoint_store import FileFacts, facts_of, verify
from isentrope.learner.training.collectives import Collectives
from isentrope.learner.training.deepspeed_engine import DeepSpeedEngine
from isentrope.learner.training.fault_points import crash_point
from isentrope.learner.training.job import LearnerJob
from isentrope.learner.training.model import Policy, load_policy
from isentrope.learner.training.reference_policy import ReferencePolicy, reference_folder, write
from isentrope.learner.training.trainer import BatchFacts, Schedule, Trainer
from isentrope.learner.training.weight_files import write_version
from isentrope.rollout.wire.types import batch_of
from isentrope.rollout.wire.weights import Manifest, version_folder

Facts = dict[str, Any]

logger = logging.getLogger(__name__)


class RankGroup:
    """All ranks of one learner, seen from this one."""

    def __init__(self, job: LearnerJob, objective: Objective, ranks: Collectives) -> None:
        self.ranks = ranks
        self.doing = "starting"
        """The order that is carried out, for the message when a rank is missing."""
        self._job = job
        self._objective = objective
        self._root = Path(job.spec.output_dir)
        self._stepper: DeepSpeedEngine | None = None
        self._frozen: ReferencePolicy | None = None

    # --- rank 0

    def idle(self) -> None:
        """Do nothing, together."""
        self._order("idle")

    def check(self, folder: Path, files: Mapping[str, FileFacts]) -> str:
        """What is wrong with a checkpoint's files, each read by one rank; empty: nothing."""
        facts: Facts = {"folder": str(folder), "files": {name: file.model_dump() for name, file in files.items()}}
        self._order("check", facts)
        return self._check(**facts)

    def build(self, checkpoint: Path | None, renewed_at: int | None) -> None:
        """Make the network and its optimizer, as in `checkpoint` or new, and the reference if the objective needs one:
        the model itself, or what it was renewed to behind batch `renewed_at`."""
        reference = "" if renewed_at is None else str(reference_folder(self._root, renewed_at))
        facts = {"checkpoint": "" if checkpoint is None else str(checkpoint), "reference": reference}
        self._order("build", facts)
        if problem := self._build(**facts):
            raise ConfigError(problem, where=f"model.path = {self._job.spec.model.path!r}")

    def train(self, arrays: Arrays, schedule: Schedule, state: State) -> BatchFacts:
        """Train one batch."""
        facts = {"schedule": asdict(schedule), "state": state}
        self._order("train", facts, arrays.to_bytes())
        return self._trainer.train(arrays, schedule, state)

    def score(self, arrays: Arrays) -> Moments:
        """Statistics of the present policy on some responses: each field [N, T]."""
        self._order("score", {}, arrays.to_bytes())
        return self._score(arrays)

    def publish(self, version: int) -> Manifest:
        """Write the present weights as `version`. StorageError: they could not be written, and nothing else changed."""
        self._order("publish")
        folder = version_folder(self._root, version)
        return write_version(self._built.parameters(), folder, version=version, dtype=self._built.dtype)

    def renew(self, version: int) -> None:
        """Make the present weights, which are `version`, the reference, and the optimizer as new. StorageError as in
        `publish`."""
        self._order("renew")
        folder = reference_folder(self._root, batch_of(version))
        write(self._renewed(), folder, version=version, dtype=self._built.dtype)
        self._built.forget_moments()

    def save(self, folder: Path, batch: int) -> dict[str, FileFacts]:
        """Write the full state into the empty `folder`; size and digest of every file. StorageError as in `publish`."""
        facts: Facts = {"folder": str(folder), "batch": batch}
        self._order("save", facts)
        problem, files = self._save(**facts)
        if problem:
            raise StorageError(f"checkpoint cannot be written: {problem}", where=str(folder))
        return files

    def end(self) -> None:
        """Let the others go."""
        self._order("end")

    # --- the others

    def follow(self) -> None:
        """Carry out orders until `end`."""
        while True:
            head, _, blob = self.ranks.broadcast().partition(b"\n")
            self.doing, facts = json.loads(head)
            if self.doing == "end":
                return
            try:
                self._obey(self.doing, facts, blob)
            except IsentropeError as error:
                logger.error("%s: %s", self.doing, error.what)  # rank 0 has met the same, and decides

    def _obey(self, name: str, facts: Facts, blob: bytes) -> None:
        match name:
            case "check":
                self._check(**facts)
            case "build":
                self._build(**facts)
            case "train":
                self._trainer.train(Arrays.from_bytes(blob), Schedule(**facts["schedule"]), facts["state"])
            case "score":
                self._score(Arrays.from_bytes(blob))
            case "publish":
                for _ in self._built.parameters():
                    pass  # takes part in gathering them
            case "renew":
                for _ in self._renewed():
                    pass
                self._built.forget_moments()
            case "save":
                self._save(**facts)

    # --- every rank

    def _order(self, name: str, facts: Facts | None = None, blob: bytes = b"") -> None:
        self.doing = name
        self.ranks.broadcast(json.dumps([name, facts or {}]).encode() + b"\n" + blob)

    def _check(self, folder: str, files: Mapping[str, Any]) -> str:
        table = {name: FileFacts.model_validate(file) for name, file in files.items()}
        share = sorted(table)[self.ranks.rank :: self.ranks.size]
        problems = self.ranks.gather(verify(Path(folder), table, share))
        return "; ".join(problem for problem in problems if problem)

    def _build(self, checkpoint: str, reference: str) -> str:
        """Why the model cannot be loaded somewhere; asked before the first call that needs all ranks."""
        spec, config, device = self._job.spec, self._job.config, self.ranks.device
        policy, problem = None, ""
        try:
            policy = self._load(gradient_checkpointing=config.gradient_checkpointing)
        except ConfigError as error:
            problem = error.what
        problems = [str(each) for each in self.ranks.gather(problem) if each]
        if policy is None or problems:
            return problems[0]
        if Need.REFERENCE in needs(self._objective):
            self._frozen = ReferencePolicy(self._load(gradient_checkpointing=False), spec.sampling.temperature, device)
            if reference:
                self._frozen.load(Path(reference))
        self._stepper = DeepSpeedEngine(policy, spec.sampling.temperature, config, device)
        if checkpoint:
            self._stepper.load(Path(checkpoint))
        return ""

    def _load(self, *, gradient_checkpointing: bool) -> Policy:
        return load_policy(
            self._job.spec.model_dir,
            dtype=getattr(torch, self._job.spec.model.dtype),
            device=self.ranks.device,
            gradient_checkpointing=gradient_checkpointing,
        )

    def _renewed(self) -> Iterator[tuple[str, Tensor]]:
        assert self._frozen is not None, "the objective has a reference"
        return self._frozen.renewed(self._built.parameters())

    def _score(self, arrays: Arrays) -> Moments:
        return self._trainer.statistics(arrays, self._job.config.micro_batch_tokens)

    def _save(self, folder: str, batch: int) -> tuple[str, dict[str, FileFacts]]:
        """What the disk refused, and the files; each is digested by one rank."""
        problem = self._built.save(Path(folder))
        crash_point("commit.written", batch)
        problems = [each for each in self.ranks.gather(problem) if each]  # also waits until all have written
        share = sorted(path for path in Path(folder).iterdir() if path.is_file())[self.ranks.rank :: self.ranks.size]
        tables = self.ranks.gather({} if problems else {path.name: facts_of(path).model_dump() for path in share})
        files = {name: FileFacts.model_validate(file) for table in tables for name, file in table.items()}
        return "; ".join(problems), files

    @property
    def _built(self) -> DeepSpeedEngine:
        assert self._stepper is not None, "build comes first"
        return self._stepper

    @property
    def _trainer(self) -> Trainer:
        return Trainer(self.ranks, self._built, self._objective, self._frozen)
