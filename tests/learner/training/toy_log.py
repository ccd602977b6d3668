"""The line that the real writer writes about a batch, read back strictly."""

from collections import Counter
from pathlib import Path
from typing import Any

from isentrope.learner.config import AlarmsConfig
from isentrope.learner.intake.intake_facts import FeederStatus
from isentrope.learner.intake.outcomes import Tally
from isentrope.learner.intake.ragged import RaggedBatch
from isentrope.learner.measures import FunctionReward
from isentrope.learner.records import BatchRow
from isentrope.learner.training.alarms import Alarms, bounds_in_force
from isentrope.learner.training.metrics import Accounts, BatchLog, Draws, Surroundings
from isentrope.learner.training.stopwatch import Stopwatch
from isentrope.learner.training.trainer import BatchFacts
from isentrope.learner.training.untrained import UntrainedCounts
from isentrope.rollout.wire.control import Mode

INTAKE = FeederStatus(
    ready=2,
    issued=9,
    trained=3,
    retired={"stale": 1},
    failed={"reward": Counter({8: 2})},
    retired_whole={"stale": Counter({16: 4})},
    idle_s=0.25,
    quiet_s=0.0,
    replaced=Tally(),
)
AROUND = Surroundings(
    Mode.ASYNC,
    INTAKE,
    version=1 << 20,
    actors=1,
    rewards={"f": FunctionReward(mean=0.5, std=0.5, missing=0.25)},
    served=None,
    ranks=1,
)


def make_alarms(dtype: str = "float32", **keys: Any) -> Alarms:
    """Return the alarms of a new run, with these keys of `[learner.alarms]`."""
    config = AlarmsConfig(**keys)
    return Alarms(bounds_in_force(config, dtype), config.window)


def make_accounts(draws: Draws | None = None, **alarms: Any) -> Accounts:
    """Return the accounts of a new run, with these keys of `[learner.alarms]`."""
    return Accounts(draws, UntrainedCounts(), make_alarms(**alarms))


def written_row(folder: Path, ragged: RaggedBatch, facts: BatchFacts, draws: Draws | None = None) -> BatchRow:
    """Write a batch, and return its line."""
    BatchLog(folder, [], Stopwatch(), make_accounts(draws)).write(ragged, facts, AROUND)
    return BatchRow.model_validate_json((folder / BatchRow.FILE).read_bytes().splitlines()[-1])
