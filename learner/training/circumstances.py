"""All that decides, beside its groups and the weights before it, what a batch makes of the weights: one rule for
training and for replay."""

from collections.abc import Sequence
from typing import Self

from pydantic import BaseModel, ConfigDict

from isentrope.learner.intake.ragged import RaggedBatch, make_ragged
from isentrope.learner.objective.objective import ControllerStates
from isentrope.learner.training.job import LearnerJob
from isentrope.learner.training.trainer import Schedule
from isentrope.rollout.rewards.correctness import correctness_of, weights_of
from isentrope.rollout.wire.control import Mode
from isentrope.rollout.wire.types import Group


class Circumstances(BaseModel):
    """The circumstances in which one batch is trained."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")

    schedule: Schedule
    controllers: dict[str, dict[str, float]]
    """State of the objective's controllers before the batch."""
    newest_version: int
    """Newest version that was announced when it was trained."""
    ranks: int
    gradient_checkpointing: bool

    @classmethod
    def of(cls, job: LearnerJob, batch: int, mode: Mode, controllers: ControllerStates, newest_version: int) -> Self:
        """Return those of batch number `batch`, which was planned in `mode`."""
        config = job.config.in_mode(mode)
        return cls(
            schedule=Schedule.of(config, job.spec.seed, batch),
            controllers={name: dict(numbers) for name, numbers in controllers.items()},
            newest_version=newest_version,
            ranks=config.ranks,
            gradient_checkpointing=config.gradient_checkpointing,
        )

    def lay_out(self, groups: Sequence[Group], number: int, job: LearnerJob) -> RaggedBatch:
        """Return the batch of `groups`, which is trained on the weights after `number` batches."""
        return make_ragged(
            groups,
            number=number,
            token_max_lag=job.config.staleness.oldest_token,
            correctness=correctness_of(job.spec.data),
            newest_version=self.newest_version,
            functions=weights_of(job.spec.data),
            demonstrations=job.spec.demonstrations,
        )
