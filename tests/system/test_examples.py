"""Examples train as their READMEs say, from what `init` writes; that of README itself is in `test_own_run`."""

import json
from contextlib import nullcontext
from pathlib import Path

import pytest
from judges import judge
from whole_commands import BOOT_S, Start, batches, lines

from isentrope import init

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

BATCHES = 3


@pytest.mark.parametrize(
    "name",
    [
        "chat",
        pytest.param("gsm8k", marks=pytest.mark.soak),
        pytest.param("judge", marks=pytest.mark.soak),
        pytest.param("verl", marks=pytest.mark.soak),
    ],
)
def test_an_example_trains(tmp_path: Path, start: Start, name: str) -> None:
    """A few batches: its model solves some of its problems, so that there is something to learn from."""
    folder = tmp_path / name
    init.write(name, folder)
    with judge(folder) if name == "judge" else nullcontext():
        changes = (f"learner.batches={BATCHES}", "data.eval_prompts=8", "data.eval_samples=2")
        command = start("train", "run.toml", *changes, folder=folder)
        assert command.wait(BOOT_S) == 0, command.output
    run = folder / "runs" / name
    assert batches(run) == list(range(1, BATCHES + 1))
    assert (run / "report.html").exists()
    assert json.loads((run / "summary.json").read_text())["alarms"] == {}
    for line in lines(run / "metrics.jsonl"):
        assert line["reward_std"] > 0 and line["grad_norm"] > 0
