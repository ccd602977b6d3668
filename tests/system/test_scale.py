"""One actor, three, one again by `isentrope scale` in mid-run: no batch is interrupted and the ledger is closed."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from lab import SMALL, seconds_to_next_batch
from whole_commands import Start, batches, lines, serving

from isentrope import init

pytestmark = [pytest.mark.slow, pytest.mark.soak, pytest.mark.timeout(7200)]

OPTIONS = ("actors.count=1", "learner.ranks=1", "learner.batches=1000000", *SMALL)

GROUPS = 8
"""Groups of a batch; with a lag of one batch, twice as many are issued and not trained at most."""


def test_one_three_one_actors_train_every_batch_and_close_the_ledger(
    start: Start, tmp_path: Path, record_testsuite_property: Callable[[str, object], None]
) -> None:
    folder = tmp_path / "example"
    init.write("digit_walk", folder)
    run = folder / "runs" / "digit-walk"

    def scale(number: int) -> None:
        asked, since = [sys.executable, "-m", "isentrope.cli", "scale", f"actors={number}"], time.time()
        done = subprocess.run(asked, cwd=folder, env=os.environ, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        command.until(lambda: serving(run) == number)
        record_testsuite_property(f"seconds until {number} of 1, 3, 1 actors serve", time.time() - since)
        before = len(batches(run))
        command.until(lambda: len(batches(run)) > before + 2)
        after = f"seconds to the next batch after scaling to {number}"
        record_testsuite_property(after, seconds_to_next_batch(run, since))

    command = start("train", "run.toml", *OPTIONS, folder=folder)
    command.until(lambda: len(batches(run)) >= 2)
    for number in (3, 1):
        scale(number)
    command.send(signal.SIGINT)
    assert command.wait() == 0, command.output

    assert "started again" not in command.output
    assert command.output.count("left: fewer are wanted") == 2
    assert [(line["before"], line["wanted"]) for line in lines(run / "scale.jsonl")] == [(1, 3), (3, 1)]
    assert batches(run) == list(range(1, len(batches(run)) + 1))
    outcome = json.loads((run / "outcome.json").read_text())
    trained = sum(line["groups"] for line in lines(run / "metrics.jsonl"))
    assert outcome["trained"] == trained == GROUPS * len(batches(run))
    assert 0 <= outcome["issued"] - trained - sum(outcome["retired"].values()) <= 2 * GROUPS
