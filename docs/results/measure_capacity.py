"""Compare the figures of `isentrope plan` with three runs: README's example, the demo, and one of long responses.

    python docs/results/measure_capacity.py             # 10 minutes on two quiet cores
    python docs/results/measure_capacity.py --batches 4 # shorter runs, to try this script

Writes `capacity.json` beside this file: for each run what was planned, by the lengths and rates that it measured, and
what its broker and its metrics have shown.
"""

import argparse
import json
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from measure import ISENTROPE, begun

from isentrope import environment, runfolder
from isentrope.capacity.sizes import RUN_BYTES
from isentrope.rollout.broker.access import Role
from isentrope.rollout.wire.files import write_whole

DATA = Path(__file__).with_name("capacity.json")

LOOK_S = 0.2

DISK_TRIAL_BYTES = 256 << 20

LONG_VOCABULARY = 4096
"""Tokens of a model whose weights are random: its answers end by chance after as many."""

LONG = (
    "run.name=long",
    "model.path=long_model",
    "data.eval=",
    "data.reward=spread:spread",
    "sampling.group_size=8",
    "sampling.max_new_tokens=1024",
    "learner.method=grpo",
    "learner.objective.tokens=none",
    "learner.updates_per_batch=1",
    "learner.prompts_per_batch=4",
    "learner.micro_batch_tokens=4096",
)

SPREAD = '''def spread(completions, **columns):
    """Return rewards that differ and say nothing."""
    return [len(text) % 7 / 7 for text in completions]
'''


def main() -> None:
    """Run everything that the file lacks of this commit, and write it after each run."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--batches", type=int, default=15)
    batches = parser.parse_args().batches
    environment.set_defaults(offline=True)
    record = begun(DATA)
    done = {run["name"] for run in record["runs"]}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name, "example")
        subprocess.run([*ISENTROPE, "init", "digit_walk", str(folder)], check=True)
        _add_long_model(folder)
        speed = _disk_speed(folder)
        cases = {
            "example": (["train", "run.toml", f"learner.batches={batches}"], folder / "runs" / "digit-walk", ()),
            "demo": (["demo", "--batches", str(batches), "--output-dir", "demo"], folder / "demo", None),
            "long": (["train", "run.toml", *LONG, f"learner.batches={batches // 2}"], folder / "runs" / "long", LONG),
        }
        for case, (command, run, changes) in cases.items():
            if case not in done:
                seen = _watch(command, folder, run)
                file = [str(run / "run.toml")] if changes is None else ["run.toml", *changes]
                planned = _plan([*file, "--measured", str(run), "--disk", f"{speed}B/s"], folder)
                record["runs"].append(_compared(case, command, seen, planned))
                write_whole(DATA, json.dumps(record, indent=1) + "\n", durable=False)


def _add_long_model(folder: Path) -> None:
    """Write a model of random weights beside the example's, and a reward that does not care."""
    import shutil

    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    long = folder / "long_model"
    shutil.copytree(folder / "model", long)
    config = AutoConfig.from_pretrained(long)
    config.vocab_size, config.max_position_embeddings = LONG_VOCABULARY, 2048
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(long)
    (folder / "spread.py").write_text(SPREAD, encoding="utf-8")


def _watch(command: Sequence[str], folder: Path, run: Path) -> dict[str, Any]:
    """Run a command to its end, and return what its broker held at the fullest, and the metrics' seconds."""
    began = time.time()
    process = subprocess.Popen([*ISENTROPE, *command], cwd=folder)
    fullest: dict[str, int] = {"bytes": 0, "groups": 0, "memory": 0}
    empty: int | None = None
    while process.poll() is None:
        time.sleep(LOOK_S)
        look = _look(run, began)
        if look is None:
            continue
        empty = look["memory"] if empty is None or look["groups"] == 0 else empty
        fullest = max(fullest, look, key=lambda each: each["bytes"])
    if process.returncode:
        raise SystemExit(f"{command} ended with {process.returncode}")
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return fullest | {
        "memory": fullest["memory"] - (empty or 0),
        "length_mean": statistics.fmean(row["length_mean"] for row in rows),
        "publish_s": statistics.median(row["time"]["publish_s"] for row in rows),
        "weights_bytes": _weights(run),
    }


def _look(run: Path, began: float) -> dict[str, int] | None:
    """Return what the broker of a run that began later holds; None: it cannot be asked yet, or any more."""
    try:
        record = runfolder.read_record(run)
        if record.started < began - 1:
            return None
        view = runfolder.open_view(record, Role.VIEWER, deadline_s=2.0)
        try:
            sizes = len(view.broker.run(lambda client: client.hgetall(view.broker.keys.sizes)))
            memory = view.broker.run(lambda client: client.info("memory"))["used_memory"]
            return {"bytes": view.counters().get("bytes", 0), "groups": sizes, "memory": int(memory)}
        finally:
            view.broker.close()
    except (OSError, RuntimeError, ValueError):  # every error of the program is one of them
        return None


def _weights(run: Path) -> int:
    newest = max((run / "weights").glob("*/"), key=lambda path: int(path.name))
    return sum(path.stat().st_size for path in newest.glob("*.safetensors"))


def _plan(arguments: Sequence[str], folder: Path) -> dict[str, Any]:
    told = subprocess.run(
        [*ISENTROPE, "plan", *arguments, "--json"], cwd=folder, check=True, capture_output=True, text=True
    )
    figures: dict[str, Any] = json.loads(told.stdout)
    return figures


def _compared(name: str, command: Sequence[str], seen: dict[str, Any], planned: dict[str, Any]) -> dict[str, Any]:
    groups = max(seen["groups"], 1)
    return {
        "name": name,
        "command": f"isentrope {' '.join(command)}",
        "length_mean": round(seen["length_mean"], 2),
        "groups_in_broker": seen["groups"],
        "group_bytes": {"planned": planned["group_bytes"], "measured": round(seen["bytes"] / groups)},
        "broker_bytes_at_most": {"planned": planned["broker_bytes"], "measured": seen["memory"]},
        "broker_bytes_of_a_group": {
            "planned": round((planned["broker_bytes"] - RUN_BYTES) / planned["broker_groups"]),
            "measured": round(seen["memory"] / groups),
        },
        "weights_bytes": {"planned": planned["weights_bytes"], "measured": seen["weights_bytes"]},
        "publication_s": {"planned": round(planned["write_s"], 4), "measured": round(seen["publish_s"], 4)},
    }


def _disk_speed(folder: Path) -> int:
    """Return the bytes per second at which a file is written."""
    block, began = os.urandom(1 << 20), time.monotonic()
    with (folder / "trial").open("wb") as file:
        for _ in range(DISK_TRIAL_BYTES >> 20):
            file.write(block)
    (folder / "trial").unlink()
    return int(DISK_TRIAL_BYTES / (time.monotonic() - began))


if __name__ == "__main__":
    main()
