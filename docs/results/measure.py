"""Measure what README's table states, and put it there: runs the demo with every seed, method and mode of `RUNS`.

    python docs/results/measure.py              # all runs, then the table; 20 minutes on two quiet cores
    python docs/results/measure.py --table      # the table alone, from the numbers that are there
    python docs/results/measure.py --example    # what README says of its example, into `example.json`; 5 minutes

Writes `demo.json` beside this file after each run: commit, machine, command, date, and the numbers of each run. Started
again at the same commit it goes on where it was. Runs of both modes alternate, so that what else the machine does meets
both.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from isentrope.rollout.wire.files import write_whole

ROOT = Path(__file__).parents[2]
DATA = Path(__file__).with_name("demo.json")
README = ROOT / "README.md"

ISENTROPE = (sys.executable, "-m", "isentrope.cli")

SEEDS = (0, 1, 2)
RUNS = (("grpo", "async"), ("grpo", "on_policy"), ("kl_cov", "async"))
"""Method and mode of the runs of each seed."""

EXAMPLE_DATA = DATA.with_name("example.json")

BEGIN, END = "<!-- table of docs/results/demo.json -->", "<!-- end of table -->"

KEPT = (
    "batches",
    "pass_at_1_before",
    "pass_at_1_after",
    "entropy_first",
    "entropy_last",
    "groups_trained",
    "tokens_trained",
    "tokens_per_second",
    "learner_idle_share",
    "versions_proven",
    "versions_refused",
    "canary_gap_max",
    "canary_seconds",
    "seconds_total",
    "seconds_startup",
)
"""What is kept of each run's `summary.json`."""

Run = Mapping[str, Any]


def main() -> None:
    """Measure, unless only the table is wanted, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--table", action="store_true", help="measure nothing")
    parser.add_argument("--example", action="store_true", help="measure README's example instead of the demo")
    parser.add_argument("--seeds", type=int, nargs="*", default=SEEDS)
    parser.add_argument("--batches", type=int, default=None, help="shorter runs, to try this script")
    options = parser.parse_args()
    if options.example:
        measure_example(options.seeds, options.batches)
        return
    if not options.table:
        measure(options.seeds, options.batches)
    data = json.loads(DATA.read_text(encoding="utf-8"))
    before, found, rest = README.read_text(encoding="utf-8").partition(BEGIN)
    if not found:
        sys.exit(f"{README} has no place for the table: {BEGIN}")
    README.write_text(f"{before}{BEGIN}\n{table(data)}{END}{rest.partition(END)[2]}", encoding="utf-8")


def measure(seeds: Sequence[int], batches: int | None) -> None:
    """Run everything that `demo.json` lacks of this commit, and write it after each run."""
    record = begun(DATA)
    done = {(run["method"], run["mode"], run["seed"]) for run in record["runs"]}
    for seed in seeds:
        for method, mode in RUNS:
            if (method, mode, seed) in done:
                continue
            with tempfile.TemporaryDirectory() as folder:
                run, record["versions"] = _run(method, mode, seed, batches, Path(folder) / "demo")
            record["runs"].append(run)
            write_whole(DATA, json.dumps(record, indent=1) + "\n", durable=False)


def measure_example(seeds: Sequence[int], batches: int | None) -> None:
    """Run the example of README with every seed that `example.json` lacks of this commit, and write it after each."""
    record = begun(EXAMPLE_DATA)
    changes = [f"learner.batches={batches}"] if batches is not None else []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name, "example")
        subprocess.run([*ISENTROPE, "init", "digit_walk", str(folder)], check=True)
        for seed in set(seeds) - {run["seed"] for run in record["runs"]}:
            keys = [f"run.name=seed-{seed}", f"run.seed={seed}", *changes]
            subprocess.run([*ISENTROPE, "train", "run.toml", *keys], cwd=folder, check=True)
            run, record["versions"] = _example_run(folder / "runs" / f"seed-{seed}")
            record["runs"].append({"command": f"isentrope train run.toml {' '.join(keys)}", "seed": seed} | run)
            write_whole(EXAMPLE_DATA, json.dumps(record, indent=1) + "\n", durable=False)


def _example_run(folder: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """Return what is kept of a run: the end against the start, and how far the policy moved within a batch."""
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    first, last = lines[:10], lines[-10:]
    run = {key: summary[key] for key in KEPT} | {
        "reward_first_ten": statistics.fmean(line["reward"] for line in first),
        "reward_last_ten": statistics.fmean(line["reward"] for line in last),
        "ratio_max": max(line["ratio_max"] for line in lines),
        "kl_old_max": max(line["objective"]["kl_old"] for line in lines),
        "alarms": summary.get("alarms"),
    }
    return run, summary["versions"]


def begun(data: Path) -> dict[str, Any]:
    """Return the record of this commit's runs: the one that is there, or one without runs."""
    if data.exists():
        record: dict[str, Any] = json.loads(data.read_text(encoding="utf-8"))
        if record["commit"] == _commit():
            return record
    return {
        "command": " ".join(["python", *(Path(sys.argv[0]).as_posix(), *sys.argv[1:])]),
        "commit": _commit(),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "machine": _machine(),
        "versions": {},
        "runs": [],
    }


def table(data: Mapping[str, Any]) -> str:
    """The table of README, from the numbers."""
    lines = [
        "| `isentrope demo` | right, before → after | entropy, nats per token | groups/s | learner idle | minutes |",
        "|---|---|---|---|---|---|",
    ]
    for method, mode in RUNS:
        runs = [run for run in data["runs"] if (run["method"], run["mode"]) == (method, mode)]
        if runs:
            lines.append(f"| {' | '.join(_cells(method, mode, runs))} |")
    return "".join(line + "\n" for line in [*lines, "", _caption(data)])


def groups_per_second(run: Run) -> float:
    """Trained groups by the time after start-up, evaluations left out."""
    return float(run["groups_trained"] * run["tokens_per_second"] / run["tokens_trained"])


def _caption(data: Mapping[str, Any]) -> str:
    seeds = sorted({run["seed"] for run in data["runs"]})
    whose = f"Seed {seeds[0]}"
    if len(seeds) > 1:
        whose = f"Seeds {', '.join(map(str, seeds))}, in this order; single numbers are medians"
    machine, commit = data["machine"], data["commit"][:7]
    where = f"{machine['processor']}, {machine['cores']} cores, {data['date']}, commit {commit}"
    return f"{whose}. {where}."


def _cells(method: str, mode: str, runs: Sequence[Run]) -> list[str]:
    arguments = [f"--method {method}"] if method != "grpo" else []
    arguments += [f"--mode {mode}"] if mode != "async" else []
    return [
        f"`{' '.join(arguments)}`" if arguments else "as it is",
        f"{_each(runs, 'pass_at_1_before')} → {_each(runs, 'pass_at_1_after')}",
        f"{_each(runs, 'entropy_first')} → {_each(runs, 'entropy_last')}",
        f"{statistics.median(map(groups_per_second, runs)):.0f}",
        f"{statistics.median(run['learner_idle_share'] for run in runs):.0%}",
        f"{statistics.median(run['seconds_total'] for run in runs) / 60:.1f}",
    ]


def _each(runs: Sequence[Run], key: str) -> str:
    return ", ".join(f"{run[key]:.2f}" for run in sorted(runs, key=lambda run: run["seed"]))


def _run(method: str, mode: str, seed: int, batches: int | None, folder: Path) -> tuple[dict[str, Any], dict[str, str]]:
    options = ["--method", method, "--mode", mode, "--seed", str(seed)]
    options += ["--batches", str(batches)] if batches is not None else []
    command = [*ISENTROPE, "demo", *options, "--output-dir", str(folder)]
    subprocess.run(command, check=True)
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    run = {"command": f"isentrope demo {' '.join(options)}", "method": method, "mode": mode, "seed": seed}
    return run | {key: summary[key] for key in KEPT} | {"alarms": summary["alarms"]}, summary["versions"]


def _commit() -> str:
    """The commit, with `-dirty` behind it if any of its source was changed."""

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()

    changed = git("status", "--porcelain", "--", "actors", "examples", "kernels", "learner", "rollout", "src")
    return git("rev-parse", "HEAD") + ("-dirty" if changed else "")


def _machine() -> dict[str, Any]:
    cpu = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if "model name" in line
    ]
    return {
        "processor": cpu[0] if cpu else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "system": platform.system(),
        "load_before": round(os.getloadavg()[0], 1),
    }


if __name__ == "__main__":
    main()
