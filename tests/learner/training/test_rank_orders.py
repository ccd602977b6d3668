"""What is told with an order arrives as it was told."""

import math
from pathlib import Path

import pytest
from toy_batch import make_toy_rows

from isentrope.learner.training.checkpoint_store import FileFacts
from isentrope.learner.training.rank_orders import (
    BuildArguments,
    CheckArguments,
    JsonArguments,
    SaveArguments,
    ScoreArguments,
    TrainArguments,
    VersionArguments,
)
from isentrope.learner.training.trainer import Schedule


@pytest.mark.parametrize(
    "told",
    [
        JsonArguments(),
        CheckArguments(folder=Path("/c/step-2-1"), files={"a b": FileFacts(size_bytes=0, digest="00")}),
        BuildArguments(checkpoint=None, reference=None),
        BuildArguments(checkpoint=Path("/c/ö"), reference=Path("/r/3")),
        VersionArguments(version=(7 << 32) + 5),
        SaveArguments(folder=Path("/c/line\nbreak"), batch=3),
    ],
    ids=lambda told: type(told).__name__,
)
def test_json_arguments_survive(told: JsonArguments) -> None:
    assert type(told).from_bytes(told.to_bytes()) == told


def test_schedule_and_controllers_survive_and_the_batch_stays_with_rank_0() -> None:
    schedule = Schedule(seed=3, micro_batch_tokens=64, updates_per_batch=2, epochs=1, progress=1 / 3)
    controllers = {"entropy": {"weight": 0.1 + 0.2, "bound": math.inf}}
    told = TrainArguments(make_toy_rows(groups=2, group_size=4), schedule, controllers)
    assert TrainArguments.from_bytes(told.to_bytes()) == TrainArguments(None, schedule, controllers)
    assert ScoreArguments.from_bytes(ScoreArguments(told.ragged).to_bytes()) == ScoreArguments(None)
