"""A run whose reward is slow and then freed: one actor more while the learner waits, one less while it lags behind."""

import json
import signal
from pathlib import Path

import pytest
from whole_commands import Start, batches, lines

from isentrope import init

pytestmark = [pytest.mark.slow, pytest.mark.soak, pytest.mark.timeout(7200)]

REWARD = '''
import pathlib, time
import rewards

def reaches(**columns):
    """The example's reward; slow until it is freed."""
    if not pathlib.Path(__file__).with_name("freed").exists():
        time.sleep(1)
    return rewards.reaches(**columns)
'''

OPTIONS = (
    "data.reward=slowed:reaches",
    "actors.count=1",
    "actors.max=2",
    "actors.min=1",
    "actors.autoscale=lag",
    "learner.ranks=1",
    "learner.batches=100000",
    "learner.updates_per_batch=32",
    "learner.micro_batch_tokens=64",  # so many take longer than one actor whose reward is free, on few cores too
    "learner.learning_rate=1e-6",
    "data.eval=",
)


def test_the_number_of_actors_follows_what_is_lacking_up_and_down_once(start: Start, tmp_path: Path) -> None:
    folder = tmp_path / "example"
    init.write("digit_walk", folder)
    (folder / "slowed.py").write_text(REWARD)
    run = folder / "runs" / "digit-walk"
    command = start("train", "run.toml", *OPTIONS, folder=folder)
    command.until(lambda: [line["wanted"] for line in lines(run / "scale.jsonl")] == [2])
    command.until(lambda: '"serving"' in (run / "placement.json").read_text().partition('"a2"')[2])
    (folder / "freed").touch()
    command.until(lambda: [line["wanted"] for line in lines(run / "scale.jsonl")] == [2, 1])
    command.until(lambda: "actor a2 left: fewer are wanted" in command.output)
    command.send(signal.SIGINT)
    assert command.wait() == 0, command.output
    up, down = lines(run / "scale.jsonl")
    assert up["why"] == "idle" and up["idle"] > 0.2
    assert down["why"] == "closed" and down["closed"] > 0.5
    assert batches(run) == list(range(1, len(batches(run)) + 1))
    outcome = json.loads((run / "outcome.json").read_text())
    assert outcome["trained"] == sum(line["groups"] for line in lines(run / "metrics.jsonl"))
