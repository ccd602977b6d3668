"""Methods compared by one command: killed in its second run, it goes on there, and every run is by one Ray."""

import json
import signal
import tomllib
from pathlib import Path

import pytest
from whole_commands import Start, batches

from isentrope.demo.model import make_model
from isentrope.demo.recipe import RUN_FILE
from isentrope.runfolder import read_record

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

BATCHES = 2
SMALL = ("prompts_per_batch=16", "ranks=1", "checkpoint_every=1", f"eval_every={BATCHES}", f"batches={BATCHES}")
METHODS = ("--method", "grpo", "--method", "dr_grpo")


def test_methods_are_trained_and_compared_also_over_a_kill(tmp_path: Path, start: Start) -> None:
    (tmp_path / "run.toml").write_bytes(RUN_FILE.read_bytes())
    make_model(tmp_path / "model")
    keys = ["model.path=model", "data.eval_prompts=20", *(f"learner.{key}" for key in SMALL)]
    compare = ("compare", "run.toml", *keys, *METHODS, "--output", "out")
    out, second = tmp_path / "out", tmp_path / "out" / "dr_grpo" / "seed-0"

    command = start(*compare, folder=tmp_path)
    command.until(lambda: 1 in batches(second))
    command.send(signal.SIGKILL)
    command.wait()
    first = (out / "grpo" / "seed-0" / "outcome.json").read_bytes()

    again = start(*compare, folder=tmp_path)
    assert again.wait() == 0, again.output
    assert "grpo, seed 0: finished before" in again.output
    assert (out / "grpo" / "seed-0" / "outcome.json").read_bytes() == first
    assert batches(second) == [1, 2]
    facts = json.loads((out / "comparison.json").read_text())
    assert [method["name"] for method in facts["methods"]] == ["grpo", "dr_grpo"]
    assert facts["pairs"][0]["verdict"] is not None
    settings = [tomllib.loads((run / "run.toml").read_text()) for run in (out / "grpo" / "seed-0", second)]
    for each in settings:
        del each["run"], each["learner"]["method"]
    assert settings[0] == settings[1]
    assert read_record(second).run == "demo-dr-grpo-0"
