"""Plans that kill the ranks: how their deaths are counted, when they are retired, and how their groups come back.

    <output_dir>/step.json    the plan that is being trained, and how often the ranks have died in it

The file is written at the start and before each step, and removed after it. A learner that finds it knows which plan
its predecessor died in. Deaths count that follow each other in the steps of one plan: the ranks train a poisoned plan
again and again, so nothing comes in between, while a process that is killed from outside dies anywhere, mostly where no
step is under way.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from isentrope.learner.intake.buffer import ReadyBatch
from isentrope.learner.intake.feeder import Feeder
from isentrope.learner.intake.ledger import Ledger
from isentrope.learner.intake.plan_record import PlanRecord
from isentrope.learner.intake.retirement import POISON
from isentrope.learner.training.dead_letters import LETTERS, DeadLetters
from isentrope.learner.training.fault_points import crash_point
from isentrope.rollout.wire.files import write_whole

STEP = "step.json"
"""File that tells of the step under way."""

logger = logging.getLogger(__name__)


class Step(BaseModel):
    """The plan that is being trained, and the one that the ranks have died in."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    plan: str = ""
    """Digest of the plan that is being trained."""
    suspect: str = ""
    """Digest of the plan in whose step the newest deaths came."""
    deaths: int = 0
    """Number of these deaths, one after another."""


class Poison:
    """The count of deaths by plan, and the dead letters, of one learner."""

    def __init__(self, output_dir: Path, incarnation: int, limit: int) -> None:
        """Read what the learner before has left; `limit` deaths retire a plan, and 0 none."""
        self._file = output_dir / STEP
        self._incarnation = incarnation
        self._limit = limit
        self._letters = DeadLetters(output_dir)
        self._step = after_death(_read(self._file))
        self._refused: set[str] = set()  # requeues of which it was said that they cannot be marked

    def restore(self, ledger: Ledger) -> None:
        """Record in the ledger of a checkpoint what was retired as poison, or requeued, after it.

        A death from now on, and before the first step, is one elsewhere.
        """
        self._letters.restore(ledger)
        self._write(self._step)

    @contextmanager
    def watched(self, plan: PlanRecord) -> Iterator[None]:
        """Count a death of the process in this block as one in the step of a plan."""
        self._write(self._step.model_copy(update={"plan": plan.after}))
        crash_point("train.begun", plan.batch)
        yield
        try:
            self._file.unlink(missing_ok=True)
        except OSError as error:
            logger.warning("%s cannot be removed: %s", self._file, error)

    def retire(self, batch: ReadyBatch, feeder: Feeder) -> bool:
        """Retire a batch, which is the current one, if the ranks have died in its step too often."""
        deaths = self._step.deaths if self._step.suspect == batch.record.after else 0
        if not self._limit or deaths < self._limit:
            return False
        self.show(feeder)  # refused if a newer learner has the run
        seqs = [group.seq for group in batch.groups]
        kept = []
        said = f"the ranks have died {deaths} times in batch {batch.record.batch}: its {len(seqs)} groups are retired"
        try:
            name = self._letters.write(batch, self._incarnation, deaths)
            logger.warning("%s; see `isentrope dlq show %s`", said, name)
            kept = [planned.entry for planned in batch.record.groups]
        except OSError as error:
            logger.warning("%s, and cannot be kept: %s", said, error)
        feeder.give_up(seqs, POISON)
        feeder.discard(kept)  # a requeue has them made anew
        self.show(feeder)
        return True

    def requeue(self, feeder: Feeder) -> None:
        """Order groups again that an operator wants trained. What the disk refuses stays asked for."""
        answered = self._mark(feeder)
        wanted = self._letters.requeues()
        if (wanted and feeder.requeue(wanted)) or answered:
            self.show(feeder)

    def keep_requeues(self, feeder: Feeder) -> None:
        """Mark what an operator has asked for since the last batch: a run that goes on trains it."""
        if self._mark(feeder):
            self.show(feeder)

    def show(self, feeder: Feeder) -> None:
        """Write the list of dead letters into the broker."""
        if letters := self._letters.letters():
            text = LETTERS.dump_json(letters).decode()
            feeder.call(lambda port: port.show_dead_letters(text))

    def _mark(self, feeder: Feeder) -> list[str]:
        """Mark in the folder what is asked for by the broker; return it."""
        asked = feeder.call(lambda port: port.view.requeues())
        answered = [name for name in asked if self._answer(name)]
        if answered:
            feeder.call(lambda port: port.requeued(answered))
        return answered

    def _answer(self, name: str) -> bool:
        """Mark a group that an operator wants trained; return False if the disk refuses it."""
        try:
            if not self._letters.requeue(name):
                logger.warning("%s cannot be requeued: there is no such dead letter", name)
        except OSError as error:
            if name not in self._refused:  # it is tried again at every look for requests
                self._refused.add(name)
                logger.warning("%s cannot be requeued yet: %s", name, error)
            return False
        return True

    def _write(self, step: Step) -> None:
        try:
            write_whole(self._file, step.model_dump_json(), durable=False)  # a machine's crash is not the plan's
        except OSError as error:  # a full disk must not end the run for this
            logger.warning("%s cannot be written: %s", self._file, error)


def after_death(left: Step) -> Step:
    """Return the count of a learner that finds `left`: a death elsewhere ends the count of its plan."""
    if not left.plan:
        return Step()
    deaths = left.deaths if left.plan == left.suspect else 0
    return Step(suspect=left.plan, deaths=deaths + 1)


def _read(file: Path) -> Step:
    try:
        return Step.model_validate_json(file.read_bytes())
    except (OSError, ValidationError):
        return Step()
