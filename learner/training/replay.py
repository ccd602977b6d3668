"""The steps of a learner, made again from the batches that its run has kept, and compared with what it left.

Every rank runs `repeat`; nothing is asked of a broker or an actor, and nothing is written in the run's folder. After
each batch its line of `metrics.jsonl` must come out again, and wherever a checkpoint is, its every bit.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from isentrope.errors import ConfigError, StorageError
from isentrope.learner.intake.ledger import LedgerState
from isentrope.learner.objective.objective import ControllerStates, Objective
from isentrope.learner.records import BatchRow, EvalRow
from isentrope.learner.training.beginning import linked
from isentrope.learner.training.checkpoint_store import CHECKPOINTS, CheckpointStore, verify
from isentrope.learner.training.circumstances import Circumstances
from isentrope.learner.training.evaluator import held_out_score
from isentrope.learner.training.group_store import KeptBatch, read_batch, read_record
from isentrope.learner.training.job import LearnerJob
from isentrope.learner.training.journal import Journal
from isentrope.learner.training.kept_groups import batch_number
from isentrope.learner.training.kept_route import batches_of, chosen, leading_to, lineage
from isentrope.learner.training.main import open_ranks
from isentrope.learner.training.metrics import measure
from isentrope.learner.training.rank_change import ranks_of
from isentrope.learner.training.rank_group import RankGroup
from isentrope.learner.training.reference_policy import reference_folder
from isentrope.rollout.wire.types import version_of


@dataclass(frozen=True, slots=True)
class Route:
    """The steps to be made again: the batches between two checkpoints of one lineage."""

    run: Path
    """Folder of the run."""
    start: str
    """Checkpoint to begin with; empty: what the run began with."""
    batches: tuple[Path, ...]
    """Kept batches, the first one first."""
    checkpoints: Mapping[int, str]
    """Checkpoint to compare with after a batch, by its number; the last batch has one."""
    circumstances: Circumstances
    """Those of the first batch, whose ranks are those of all."""

    @property
    def first(self) -> int:
        """Number of the first batch."""
        return batch_number(self.batches[0])

    @property
    def last(self) -> int:
        """Number of the last batch."""
        return batch_number(self.batches[-1])

    @property
    def goal(self) -> str:
        """The last checkpoint."""
        return self.checkpoints[self.last]


@dataclass(frozen=True, slots=True)
class Parting:
    """The first place at which the repeated steps differ from the run."""

    batch: int
    what: str
    where: str


def find_route(run: Path, to: int | None, begin: str) -> Route:
    """Return what must be made again of a run.

    Args:
        run: its folder.
        to: batches of the checkpoint to reach; None: the newest one.
        begin: name or batches of the checkpoint to start from; empty: the beginning of the run.

    Raises:
        ConfigError: there is no such checkpoint, or not all batches between the two were kept, or they were trained by
            different numbers of ranks.
        StorageError: a checkpoint or a kept plan cannot be read.
    """
    store = CheckpointStore(run / CHECKPOINTS)
    names = lineage(store)
    goal = chosen(names, "" if to is None else str(to), run)
    start = chosen(names, begin, run) if begin else ""
    first = batches_of(start) if start else 0
    batches = leading_to(run, goal, after=first)
    circumstances = _alike(batches)
    if read_record(batches[0]).plan.chain != (store.state(start).ledger if start else LedgerState()).chain:
        raise StorageError(
            f"the kept plan of batch {first + 1} does not follow from {start or 'the beginning of the run'}",
            where=str(batches[0]),
            fix="begin with another checkpoint, by --from",
        )
    checkpoints = {
        batches_of(name): name
        for name in reversed(names)
        if first < batches_of(name) <= batches_of(goal) and _ranks(store, name) == circumstances.ranks
    }
    return Route(run, start, batches, checkpoints, circumstances)


def _alike(batches: Sequence[Path]) -> Circumstances:
    """Return the circumstances of the first batch; ConfigError if ranks differ in later ones."""
    records = [read_record(file) for file in batches]
    first = records[0].circumstances
    for record in records:
        own = record.circumstances
        if (own.ranks, own.gradient_checkpointing) != (first.ranks, first.gradient_checkpointing):
            raise ConfigError(
                f"the run went on with other ranks, or another learner.gradient_checkpointing, at batch "
                f"{record.plan.batch}",
                fix="replay what lies on one side of it, by --to and --from",
            )
    return first


def repeat(job: LearnerJob, route: Route) -> Parting | None:
    """Make the steps again, and return where they part from the run; None: nowhere. Every rank calls this, with a job
    whose output folder is one to work in; the result is rank 0's.

    Raises:
        StorageError: something kept is damaged, or a checkpoint.
    """
    collectives, objective, ranks = open_ranks(job)
    if collectives.rank:
        ranks.follow()
        return None
    try:
        return _Repetition(job, route, ranks, objective).run()
    finally:
        ranks.end()


class _Repetition:
    """The steps on rank 0."""

    def __init__(self, job: LearnerJob, route: Route, ranks: RankGroup, objective: Objective) -> None:
        self._job = job
        self._route = route
        self._ranks = ranks
        self._objective = objective
        self._store = CheckpointStore(route.run / CHECKPOINTS)
        self._rows = {row.batch: row for row in Journal(route.run, BatchRow).rows()}
        self._evaluations = list(Journal(route.run, EvalRow).rows())
        self._controllers: ControllerStates = objective.start()

    def run(self) -> Parting | None:
        """Make all steps; return where they part from the run."""
        self._begin()
        for file in self._route.batches:
            if (parting := self._step(read_batch(file))) is not None:
                return parting
        return None

    def _begin(self) -> None:
        start, output_dir = self._route.start, Path(self._job.spec.output_dir)
        folder = self._linked(start, output_dir) if start else linked(self._route.run, output_dir)
        refreshed_at = self._objective.refreshed_at(self._controllers)
        if refreshed_at is not None:
            link = reference_folder(output_dir, refreshed_at)
            link.parent.mkdir()
            link.symlink_to(reference_folder(self._route.run, refreshed_at).absolute())
        self._ranks.build(folder, refreshed_at, begins=folder is not None and not start)

    def _linked(self, start: str, output_dir: Path) -> Path:
        """Link a checkpoint, in its place: a conversion for other ranks lies beside it."""
        self._require_whole(start)
        self._controllers = self._store.state(start).controllers
        link = output_dir / CHECKPOINTS / start
        link.parent.mkdir()
        link.symlink_to(self._store.folder(start).absolute())
        return link

    def _step(self, kept: KeptBatch) -> Parting | None:
        plan, around = kept.record.plan, kept.record.circumstances
        if (parting := self._follow(plan.batch - 1, around.controllers)) is not None:
            return parting
        ragged = around.lay_out(kept.groups, plan.batch - 1, self._job)
        facts = self._ranks.train(ragged, around.schedule, self._controllers)
        if facts.failed != kept.record.skipped:
            what = "it has no finite update, and had one" if facts.failed else "it had no finite update, and has one"
            return Parting(plan.batch, what, f"kept plan of batch {plan.batch}")
        if not facts.failed:
            self._controllers = facts.state
            if (row := self._rows.get(plan.batch)) is not None and (what := _difference(measure(ragged, facts), row)):
                return Parting(plan.batch, what, f"{BatchRow.FILE}, batch {plan.batch}")
        if (name := self._route.checkpoints.get(plan.batch)) is not None:
            return self._compare(plan.batch, name)
        return None

    def _follow(self, batch: int, wanted: ControllerStates) -> Parting | None:
        """Set the controllers to their state before the next batch: an evaluation may have changed them, and refreshed
        the reference."""
        if _same(self._controllers, wanted):
            return None
        score = held_out_score([row for row in self._evaluations if row.batch == batch])
        if score is not None:
            state, refresh = self._objective.after_evaluation(self._controllers, score, batch)
            if _same(state, wanted):
                self._controllers = state
                if refresh:
                    self._ranks.refresh(version_of(1, batch))
                return None
        return Parting(batch, "the controllers of the objective differ", f"kept plan of batch {batch + 1}")

    def _compare(self, batch: int, name: str) -> Parting | None:
        self._require_whole(name)
        what = self._ranks.compare(self._store.folder(name))
        return Parting(batch, f"the state differs in {what}", f"checkpoint {name}") if what else None

    def _require_whole(self, name: str) -> None:
        files = self._store.files(name)
        if problem := verify(self._store.folder(name), files, sorted(files)):
            raise StorageError(f"checkpoint {name} is damaged: {problem}", where=str(self._store.folder(name)))


def _difference(measured: Mapping[str, object], row: BatchRow) -> str:
    """Return what was measured now and is not what the line of the run says; empty: nothing."""
    told = row.to_json()
    inner = told.pop("objective", None)
    told |= inner if isinstance(inner, dict) else {}
    plain: dict[str, object] = json.loads(json.dumps(measured, default=_plain))
    differing = [name for name, value in sorted(plain.items()) if not _same(told.get(name), value)]
    if not differing:
        return ""
    name = differing[0]
    more = f", and {len(differing) - 1} more measures differ" if len(differing) > 1 else ""
    return f"{name} is {plain[name]}, and was {told.get(name)}{more}"


def _plain(value: "np.generic | np.ndarray[Any, Any]") -> object:
    """Return a number or an array of NumPy's as JSON has them."""
    plain: object = value.tolist()
    return plain


def _same(one: object, other: object) -> bool:
    """Return True for equal values; a number that is not a number is equal to itself."""
    return one == other or json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


def _ranks(store: CheckpointStore, name: str) -> int:
    return ranks_of(store.files(name))
