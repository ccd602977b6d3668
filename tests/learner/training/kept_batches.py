"""Batches as a run keeps them."""

from pathlib import Path

from wire_records import make_group

from isentrope.learner.intake.buffer import ReadyBatch
from isentrope.learner.intake.plan_record import PlannedGroup, PlanRecord
from isentrope.learner.training.checkpoint_store import FileFacts
from isentrope.learner.training.circumstances import Circumstances
from isentrope.learner.training.trainer import Schedule
from isentrope.rollout.wire.control import Mode

SCHEDULE = Schedule(seed=1, micro_batch_tokens=100, updates_per_batch=2, epochs=1, progress=1 / 3)
AROUND = Circumstances(
    schedule=SCHEDULE,
    controllers={"entropy_pi": {"value": 0.1, "integral": float("nan")}},
    newest_version=7,
    ranks=2,
    gradient_checkpointing=False,
)


class Disk:
    """A writer of checkpoints that only notes them."""

    def __init__(self) -> None:
        self.saved: list[int] = []

    def save(self, folder: Path, batch: int) -> dict[str, FileFacts]:
        self.saved.append(batch)
        return {}


def make_batch(batch: int, chain: str = "") -> ReadyBatch:
    groups = tuple(make_group(seq=10 * batch + place) for place in range(2))
    planned = tuple(PlannedGroup(group.seq, group.attempt, f"{group.seq}-0") for group in groups)
    return ReadyBatch(PlanRecord(batch=batch, mode=Mode.ASYNC, chain=chain, groups=planned), groups, replayed=False)
