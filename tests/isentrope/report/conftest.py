"""A run folder as a run leaves it, with made-up numbers that look like a demo's."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

MakeRun = Callable[..., Path]

EDGES = [0.0, 0.01, 0.03, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 5.0, 15.0]


@pytest.fixture(scope="session")
def make_run(tmp_path_factory: pytest.TempPathFactory) -> MakeRun:
    """`make_run(batches=80, mode="async", status="finished")` fills a new folder and returns it."""

    def make(batches: int = 80, mode: str = "async", status: str = "finished") -> Path:
        folder = tmp_path_factory.mktemp("run")
        fill(folder, batches, mode, status)
        return folder

    return make


def fill(folder: Path, batches: int, mode: str, status: str) -> None:
    """Write the six files."""
    rng = np.random.default_rng(0)
    entropies = [0.19 + 0.46 * float(np.exp(-batch / 30)) for batch in range(1, batches + 1)]
    lines(folder / "metrics.jsonl", [_batch(batch, entropies[batch - 1], mode, rng) for batch in range(1, batches + 1)])
    evaluated = sorted({*range(0, batches + 1, 20), batches})
    lines(folder / "eval.jsonl", [_evaluation(batch, batches) for batch in evaluated])
    lines(folder / "samples.jsonl", [line for batch in evaluated for line in _samples(batch, batches, rng)])
    (folder / "run.json").write_text(json.dumps(RUN | {"mode": mode, "batches": batches}))
    (folder / "outcome.json").write_text(json.dumps(_outcome(batches, status)))


def lines(path: Path, records: list[dict[str, object]]) -> None:
    """Write JSON lines."""
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


STARTED = 1_700_000_000.0

RUN: dict[str, object] = {
    "run": "demo",
    "config_digest": "0" * 64,
    "method": "grpo",
    "mode": "async",
    "seed": 0,
    "batches": 80,
    "actors": 1,
    "ranks": 2,
    "run_file": "",
    "started": STARTED,
    "versions": {"vllm": "1.0", "redis": "6.2.14", "deepspeed": "1.1", "ray": "1.2", "torch": "1.3"},
    "host": "somewhere",
    "pid": 1,
    "socket": "",
    "url_env": "",
    "insecure": False,
}


def _batch(batch: int, entropy: float, mode: str, rng: np.random.Generator) -> dict[str, object]:
    forks = rng.normal(1.8 * entropy, 0.15, 1300).clip(0, 2.9)
    forced = rng.exponential(0.03, 1500).clip(0, 2.9)
    counts, _ = np.histogram(np.concatenate([forks, forced]), EDGES)
    lag = {"0": 2800} if mode == "on_policy" else {"0": 300, "1": 2400, "2": 100}
    return {
        "batch": batch,
        "version": batch,
        "mode": mode,
        "reward": 0.74 - 0.187 * float(np.exp(entropy)) + float(rng.normal(0, 0.04)),
        "entropy": entropy + float(rng.normal(0, 0.015)),
        "entropy_hist": {"edges": EDGES, "counts": counts.tolist()},
        "tokens": 2800,
        "clip_high": 0.011,
        "clip_low": 0.006,
        "logp_gap_mean": 3e-7,
        "logp_gap_max": 1.1e-5,
        "lag_mean": 0.0 if mode == "on_policy" else 0.93,
        "lag_max": 0 if mode == "on_policy" else 2,
        "lag_hist": lag,
        "time": {
            "at": STARTED + 60.0 + 2.0 * batch,
            "seconds_total": 35.0 + 2.0 * batch,
            "wait_s": 0.5,
            "stats_s": 0.2,
            "update_s": 1.1,
            "publish_s": 0.1,
            "checkpoint_s": 0.1,
            "evaluate_s": 0.0,
        },
        "process": {"actors": 1, "ready_groups": 12},
    }


def _evaluation(batch: int, batches: int) -> dict[str, object]:
    share = batch / batches
    start = {"1": 0.346, "2": 0.57, "4": 0.80, "8": 0.946}
    end = {"1": 0.502, "2": 0.61, "4": 0.69, "8": 0.757}
    pass_at = {k: start[k] + share * (end[k] - start[k]) for k in start}
    return {"batch": batch, "version": batch, "name": "heldout", "prompts": 200, "samples": 8, "pass_at": pass_at}


def _samples(batch: int, batches: int, rng: np.random.Generator) -> list[dict[str, object]]:
    tokens = ["+3", "0", "*4", "0", "-1", "9", "+3", "2", "<eos>"]
    scale = 1.0 - 0.7 * batch / batches
    return [
        {
            "batch": batch,
            "index": index,
            "prompt": "7 > 2 : +3 *4 -1 =",
            "tokens": tokens,
            "entropy": [float(rng.uniform(0.9, 1.4) * scale if t[0] in "+-*" else rng.uniform(0, 0.1)) for t in tokens],
            "reward": float(sample),
        }
        for index in range(6)
        for sample in range(2)
    ]


def _outcome(batches: int, status: str) -> dict[str, object]:
    return {
        "status": status,
        "exit_code": 0,
        "what": "",
        "where": "",
        "fix": "",
        "batches": batches,
        "trained": 32 * batches,
        "retired": {"stale": 3, "reward": 0},
        "issued": 32 * batches + 3,
        "published": 32 * batches + 3,
        "idle_s": 40.0,
        "total_s": 40.0 + 2.0 * batches,
    }
