"""The group of a learner's ranks: rank 0 gives orders, and every rank carries each out at the same time.

Only rank 0 talks to the broker and decides. It calls the methods of `RankGroup` named after orders; each sends its
order to the other ranks, which wait in `follow`, and then does rank 0's share. While rank 0 waits for another process
it must send `idle` orders, because the others wait for it with a deadline.
"""

import logging
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import torch
from torch import Tensor

from isentrope.errors import ConfigError, InternalError, IsentropeError, StorageError
from isentrope.kernels.plain import Moments
from isentrope.learner.intake.ragged import RaggedBatch
from isentrope.learner.objective.needs import Need, needs
from isentrope.learner.objective.objective import ControllerStates, Objective
from isentrope.learner.training.beginning import KEY, require_same_shapes
from isentrope.learner.training.checkpoint_store import CRITIC, FileFacts, facts_of, verify
from isentrope.learner.training.collectives import Collectives
from isentrope.learner.training.critic import CriticEngine
from isentrope.learner.training.deepspeed_engine import TrainingEngine
from isentrope.learner.training.fault_points import crash_point
from isentrope.learner.training.frozen_engine import FrozenEngine
from isentrope.learner.training.job import LearnerJob
from isentrope.learner.training.model import Policy, load_policy
from isentrope.learner.training.rank_change import convert, discard, ranks_of
from isentrope.learner.training.rank_orders import (
    Arguments,
    BuildArguments,
    CheckArguments,
    FolderArguments,
    JsonArguments,
    PublishArguments,
    SaveArguments,
    ScoreArguments,
    TrainArguments,
    VersionArguments,
)
from isentrope.learner.training.reference_policy import ReferencePolicy, reference_folder, write
from isentrope.learner.training.trainer import BatchFacts, Schedule, Trainer
from isentrope.learner.training.version_writer import VersionWriter
from isentrope.rollout.broker.learner_state import LearnerState, RankState
from isentrope.rollout.wire.files import sync
from isentrope.rollout.wire.proof import Canary, CanaryTokens
from isentrope.rollout.wire.types import batch_of
from isentrope.rollout.wire.weights import Manifest

A = TypeVar("A", bound=Arguments)
R = TypeVar("R")

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RankOrder(Generic[A, R]):
    """One operation that all ranks do together."""

    name: str
    arguments: type[A]
    carry_out: Callable[["RankGroup", A], R]
    """Function that every rank runs, rank 0 included; its result is used on rank 0."""

    def obey(self, ranks: "RankGroup", told: bytes) -> None:
        """Carry the order out on another rank."""
        self.carry_out(ranks, self.arguments.from_bytes(told))


@dataclass(frozen=True, slots=True)
class _Network:
    """Result of `build`."""

    engine: TrainingEngine | FrozenEngine
    reference: ReferencePolicy | None
    """None: the objective needs none."""
    critic: CriticEngine | None
    """None: the objective needs none, or nothing is trained."""
    trainer: Trainer
    writer: VersionWriter


class RankGroup:
    """All ranks of one learner, seen from this one."""

    def __init__(self, job: LearnerJob, objective: Objective, collectives: Collectives) -> None:
        self.doing = "starting"
        """Order that is carried out now, for the message when a rank is missing."""
        self._since = time.monotonic()
        self._collectives = collectives
        self._job = job
        self._objective = objective
        self._root = Path(job.spec.output_dir)
        self._network: _Network | None = None

    # --- rank 0

    @property
    def state(self) -> LearnerState:
        """The order that all ranks carry out, and for how long each gave no sign of life; any thread may ask."""
        silent = self._collectives.beats.silent_s()
        ranks = [
            RankState(rank=rank, place=place, silent_s=silent[rank])
            for rank, place in enumerate(self._collectives.places)
        ]
        return LearnerState(doing=self.doing, doing_s=time.monotonic() - self._since, ranks=tuple(ranks))

    def idle(self) -> None:
        """Let all ranks do nothing together."""
        self._give(IDLE, JsonArguments())

    def check(self, folder: Path, files: Mapping[str, FileFacts]) -> str:
        """Return what is wrong with a checkpoint's files, each read by one rank; empty: nothing."""
        return self._give(CHECK, CheckArguments(folder=folder, files=dict(files)))

    def build(self, checkpoint: Path | None, refreshed_at: int | None, *, begins: bool = False) -> None:
        """Build network and optimizer, from `checkpoint` or new, and the reference if the objective needs one: the
        model itself, or its state when it was refreshed after batch `refreshed_at`. A run that trains nothing has the
        model's own weights in every checkpoint, none of which holds any.

        begins: the checkpoint is another run's, whose model may be another, and which may have no critic.

        Raises:
            ConfigError: the model cannot be loaded, or is not that of the checkpoint.
            StorageError: as those of `convert`.
        """
        checkpoint = checkpoint if self._job.trains else None
        reference = None if refreshed_at is None else reference_folder(self._root, refreshed_at)
        source = self._for_these_ranks(checkpoint) if checkpoint is not None else None
        told = BuildArguments(checkpoint=source, universal=source != checkpoint, reference=reference)
        if begins:
            told = told.model_copy(update={"begins": checkpoint})
        if problem := self._give(BUILD, told):
            raise ConfigError(problem, where=f"model.path = {self._job.spec.model.path!r}")
        if checkpoint is not None:
            discard(checkpoint.parent)

    def train(self, ragged: RaggedBatch, schedule: Schedule, state: ControllerStates) -> BatchFacts:
        """Train one batch."""
        return self._give(TRAIN, TrainArguments(ragged, schedule, state))

    def score(self, ragged: RaggedBatch) -> Moments:
        """Return statistics of the present policy on some responses: each field [N, T]."""
        return self._give(SCORE, ScoreArguments(ragged))

    def publish(self, version: int, canary: CanaryTokens) -> "Future[Manifest | None]":
        """Copy the present weights, with their log-probabilities of the tokens `canary`, and begin to write them as
        `version`; its manifest, which is there once all of it is written, or StorageError if it cannot be."""
        return self._give(PUBLISH, PublishArguments(version=version, canary=canary))

    def refresh(self, version: int) -> None:
        """Copy the present weights, which are `version`, to the reference, and reset the optimizer. StorageError if
        they could not be written: nothing else changed."""
        self._give(REFRESH, VersionArguments(version=version))

    def save(self, folder: Path, batch: int) -> dict[str, FileFacts]:
        """Write the full state into the empty `folder`, and return size and digest of every file. StorageError as in
        `refresh`."""
        problem, files = self._give(SAVE, SaveArguments(folder=folder, batch=batch))
        if problem:
            raise StorageError(f"checkpoint cannot be written: {problem}", where=str(folder))
        return files

    def compare(self, folder: Path) -> str:
        """Return where the full state differs from a checkpoint of as many ranks, in any bit; empty: nowhere."""
        return self._give(COMPARE, FolderArguments(folder=folder))

    def end(self) -> None:
        """Let the other ranks return from `follow`, once the version that is being written is complete."""
        self._give(END, JsonArguments())

    def _for_these_ranks(self, checkpoint: Path) -> Path:
        """Return a verified checkpoint, or its universal form if another number of ranks wrote it. StorageError as in
        `convert`."""
        before, now = ranks_of(path.name for path in checkpoint.iterdir()), self._collectives.size
        if before == now:
            return checkpoint
        logger.warning(
            "%d ranks continue what %d ranks began: from here on the run is not theirs to the bit", now, before
        )
        return convert(checkpoint, self.idle) if self._job.config.zero_stage else checkpoint

    # --- other ranks

    def follow(self) -> None:
        """Carry out orders until `end`. InternalError if there is an order that this program does not know."""
        while self.doing != END.name:
            name, _, told = self._collectives.broadcast().partition(b"\n")
            self.doing = name.decode()
            obey = _known(self.doing)
            try:
                obey(self, told)
            except IsentropeError as error:
                logger.error("%s: %s", self.doing, error.what)  # rank 0 has the same error, and decides

    # --- every rank

    def _give(self, order: RankOrder[A, R], arguments: A) -> R:
        """Send an order and carry it out. InternalError before anything is sent if the others would not know it."""
        _known(order.name)
        self.doing, self._since = order.name, time.monotonic()
        self._collectives.broadcast(order.name.encode() + b"\n" + arguments.to_bytes())
        return order.carry_out(self, arguments)

    def _nothing(self, told: JsonArguments) -> None:
        pass

    def _check(self, told: CheckArguments) -> str:
        problems = self._collectives.gather(verify(told.folder, told.files, self._share(sorted(told.files))))
        return "; ".join(problem for problem in problems if problem)

    def _build(self, told: BuildArguments) -> str:
        """Return why the model cannot be loaded somewhere; asked before the first call that needs all ranks."""
        spec, config, device = self._job.spec, self._job.config, self._collectives.device
        policy, network, problem = None, None, ""
        try:
            policy = self._load(gradient_checkpointing=config.gradient_checkpointing)
            network = self._load_critic()
            if told.begins is not None:
                require_same_shapes(policy, told.begins)
        except ConfigError as error:
            problem = error.what
        problems = [str(each) for each in self._collectives.gather(problem) if each]
        if policy is None or problems:
            return problems[0]
        reference = None
        if Need.REFERENCE in needs(self._objective):
            teacher = self._load(self._job.local.reference_dir, gradient_checkpointing=False)
            reference = ReferencePolicy(teacher, spec.sampling.temperature, device)
            if told.reference is not None:
                reference.load(told.reference)
        # Before the policy, whose random state is the last that is loaded.
        critic = None if network is None else self._critic(network, told)
        engine = self._engine(policy, told)
        trainer = Trainer(self._collectives, engine, self._objective, reference, critic)
        writer = VersionWriter(engine.weights, self._collectives.background, self._root, device)
        self._network = _Network(engine, reference, critic, trainer, writer)
        return ""

    def _critic(self, network: Policy, told: BuildArguments) -> CriticEngine:
        critic = CriticEngine(network, self._job.config, self._collectives.device, loads_universal=told.universal)
        if told.begins is not None and not (told.begins / CRITIC).is_dir():
            logger.warning("the run that %s names had no critic: this one begins with a new one", KEY)
        elif told.checkpoint is not None:
            if told.begins is not None:
                require_same_shapes(critic.policy, told.begins / CRITIC)
            critic.load(told.checkpoint / CRITIC)
        return critic

    def _engine(self, policy: Policy, told: BuildArguments) -> TrainingEngine | FrozenEngine:
        device, temperature = self._collectives.device, self._job.spec.sampling.temperature
        if not self._job.trains:
            return FrozenEngine(policy, temperature, device)
        engine = TrainingEngine(policy, temperature, self._job.config, device, loads_universal=told.universal)
        if told.checkpoint is not None:
            engine.load(told.checkpoint)
        return engine

    def _train(self, told: TrainArguments) -> BatchFacts:
        return self._built.trainer.train(told.ragged, told.schedule, told.state)

    def _score(self, told: ScoreArguments) -> Moments:
        return self._built.trainer.statistics(told.ragged, self._job.config.micro_batch_tokens)

    def _publish(self, told: PublishArguments) -> "Future[Manifest | None]":
        """Compute the canary and copy the weights, of the same moment."""
        tokens = told.canary.tokens[: self._longest_row]
        logp = tuple(self._built.engine.logp(tokens))
        canary = Canary(tokens=tokens, arbitrary=told.canary.arbitrary, logp=logp)
        return self._built.writer.begin(told.version, canary)

    def _refresh(self, told: VersionArguments) -> None:
        engine, reference = self._built.engine, self._built.reference
        assert reference is not None, "the objective has a reference"
        refreshed = reference.refreshed(engine.weights.in_memory())
        if self._collectives.rank:
            _read_to_end(refreshed)
        else:
            folder = reference_folder(self._root, batch_of(told.version))
            write(refreshed, folder, version=told.version)
        engine.forget_moments()

    def _save(self, told: SaveArguments) -> tuple[str, dict[str, FileFacts]]:
        """Return why a file could not be written, and the files; each is digested by one rank."""
        problem = self._built.engine.save(told.folder)
        if self._built.critic is not None:
            problem = self._built.critic.save(told.folder / CRITIC) or problem
        crash_point("commit.written", told.batch)
        problems = [each for each in self._collectives.gather(problem) if each]  # also waits until all have written
        names = sorted(path.relative_to(told.folder) for path in told.folder.rglob("*") if path.is_file())
        table = {} if problems else {name.as_posix(): facts_of(told.folder / name) for name in self._share(names)}
        for part in {(told.folder / name).parent for name in table}:
            sync(part)
        tables = self._collectives.gather({name: facts.model_dump() for name, facts in table.items()})
        files = {name: FileFacts.model_validate(file) for table in tables for name, file in table.items()}
        return "; ".join(problems), files

    def _compare(self, told: FolderArguments) -> str:
        engine, critic = self._built.engine, self._built.critic
        assert isinstance(engine, TrainingEngine), "what trained nothing is not replayed"
        differing = engine.difference(told.folder)
        if critic is not None and (of_critic := critic.difference(told.folder / CRITIC)):
            differing = differing or f"{CRITIC}/{of_critic}"
        found = self._collectives.gather(differing)
        return next((each for each in found if each), "")

    def _drain(self, told: JsonArguments) -> None:
        if self._network is not None:
            self._network.writer.drain()

    def _share(self, things: list[R]) -> list[R]:
        """Return this rank's share of the work."""
        return things[self._collectives.rank :: self._collectives.size]

    def _load_critic(self) -> Policy | None:
        """Return the network that the critic begins with; None: the objective needs none, or nothing is trained."""
        config, path = self._job.config, self._job.config.critic.path
        if not self._job.trains or Need.CRITIC not in needs(self._objective):
            return None
        if path is not None and (folder := Path(self._job.local.run_folder, Path(path).expanduser())).is_dir():
            path = str(folder)
        try:
            return self._load(path, gradient_checkpointing=config.gradient_checkpointing)
        except ConfigError as error:
            raise ConfigError(f"the critic's {error.what} (learner.critic.path = {path!r})") from None

    def _load(self, path: str | None = None, *, gradient_checkpointing: bool) -> Policy:
        """Load the run's model, or the one at `path`."""
        return load_policy(
            path or self._job.local.model_dir,
            dtype=getattr(torch, self._job.spec.model.dtype),
            device=self._collectives.device,
            gradient_checkpointing=gradient_checkpointing,
        )

    @property
    def _longest_row(self) -> int:
        """Tokens that both the policy and an engine can compute as one prompt, after which an engine samples one."""
        own = getattr(self._built.engine.policy.network.config, "max_position_embeddings", None)
        return min(each for each in (self._job.spec.model.max_model_len, own, sys.maxsize) if each) - 1

    @property
    def _built(self) -> _Network:
        assert self._network is not None, "build comes first"
        return self._network


def _read_to_end(parameters: Iterator[tuple[str, Tensor]]) -> None:
    """Take part in gathering `parameters`."""
    for _ in parameters:
        pass


IDLE = RankOrder("idle", JsonArguments, RankGroup._nothing)
CHECK = RankOrder("check", CheckArguments, RankGroup._check)
BUILD = RankOrder("build", BuildArguments, RankGroup._build)
TRAIN = RankOrder("train", TrainArguments, RankGroup._train)
SCORE = RankOrder("score", ScoreArguments, RankGroup._score)
PUBLISH = RankOrder("publish", PublishArguments, RankGroup._publish)
REFRESH = RankOrder("refresh", VersionArguments, RankGroup._refresh)
SAVE = RankOrder("save", SaveArguments, RankGroup._save)
COMPARE = RankOrder("compare", FolderArguments, RankGroup._compare)
END = RankOrder("end", JsonArguments, RankGroup._drain)

ORDERS: dict[str, Callable[[RankGroup, bytes], None]] = {
    each.name: each.obey for each in (IDLE, CHECK, BUILD, TRAIN, SCORE, PUBLISH, REFRESH, SAVE, COMPARE, END)
}
"""Function of each order; there are no other orders."""


def _known(name: str) -> Callable[[RankGroup, bytes], None]:
    if name not in ORDERS:
        raise InternalError(
            f"unknown order {name!r}", where="the learner's ranks", fix=f"orders are {', '.join(ORDERS)}"
        )
    return ORDERS[name]
