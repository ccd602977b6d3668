"""A run folder as a run leaves it, with made-up numbers that look like a demo's."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from run_records import MEASURES, TIME, make_outcome, make_row, make_run_record

from isentrope.learner import json_files
from isentrope.learner.records import BatchRow, EvalRow, Outcome, SampleRow
from isentrope.learner.training.entropy_law import RunningFit
from isentrope.learner.training.journal import Journal

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
    """Write what the writers would."""
    rng = np.random.default_rng(0)
    entropies = [0.19 + 0.46 * float(np.exp(-batch / 30)) for batch in range(1, batches + 1)]
    journal, law = Journal(folder, BatchRow), RunningFit([], None)
    for batch in range(1, batches + 1):
        row = _batch(batch, entropies[batch - 1], mode, rng)
        row["objective"] = dict(MEASURES) | {"entropy_law": law.add(row["entropy"], row["reward"])}
        journal.append(make_row(**row))
    evaluated = sorted({*range(0, batches + 1, 20), batches})
    figures, samples = Journal(folder, EvalRow), Journal(folder, SampleRow)
    for batch in evaluated:
        figures.append(_evaluation(batch, batches))
        for sample in _samples(batch, batches, rng):
            samples.append(sample)
    json_files.write(folder, make_run_record(mode=mode, batches=batches, ranks=2, started=STARTED, versions=VERSIONS))
    json_files.write(folder, _outcome(batches, status))


STARTED = 1_700_000_000.0

VERSIONS = {"vllm": "1.0", "redis": "6.2.14", "deepspeed": "1.1", "ray": "1.2", "torch": "1.3"}


def _batch(batch: int, entropy: float, mode: str, rng: np.random.Generator) -> dict[str, Any]:
    forks = rng.normal(1.8 * entropy, 0.15, 1300).clip(0, 2.9)
    forced = rng.exponential(0.03, 1500).clip(0, 2.9)
    counts, _ = np.histogram(np.concatenate([forks, forced]), EDGES)
    lag = {0: 2800} if mode == "on_policy" else {0: 300, 1: 2400, 2: 100}
    return {
        "batch": batch,
        "version": batch,
        "mode": mode,
        "reward": 0.74 - 0.187 * float(np.exp(entropy)) + float(rng.normal(0, 0.04)),
        "entropy": entropy + float(rng.normal(0, 0.015)),
        "entropy_hist": {"edges": EDGES, "counts": counts.tolist()},
        "lag_mean": 0.0 if mode == "on_policy" else 0.93,
        "lag_max": 0 if mode == "on_policy" else 2,
        "lag_hist": lag,
        "time": dict(TIME) | {"at": STARTED + 60.0 + 2.0 * batch, "seconds_total": 35.0 + 2.0 * batch},
    }


def _evaluation(batch: int, batches: int) -> EvalRow:
    share = batch / batches
    start = {1: 0.346, 2: 0.57, 4: 0.80, 8: 0.946}
    end = {1: 0.502, 2: 0.61, 4: 0.69, 8: 0.757}
    return EvalRow(
        batch=batch,
        version=batch,
        name="heldout",
        prompts=200,
        samples=8,
        pass_at={k: start[k] + share * (end[k] - start[k]) for k in start},
        reward=start[1] + share * (end[1] - start[1]),
        rewards={},
        length_mean=9.0,
        truncated=0.0,
        entropy=0.4,
    )


def _samples(batch: int, batches: int, rng: np.random.Generator) -> list[SampleRow]:
    tokens = ("+3", "0", "*4", "0", "-1", "9", "+3", "2", "<eos>")
    scale = 1.0 - 0.7 * batch / batches

    def entropy(token: str) -> float:
        return float(rng.uniform(0.9, 1.4) * scale if token[0] in "+-*" else rng.uniform(0, 0.1))

    return [
        SampleRow(
            batch=batch,
            index=index,
            prompt="7 > 2 : +3 *4 -1 =",
            tokens=tokens,
            entropy=tuple(map(entropy, tokens)),
            reward=float(sample),
            rewards={},
            correct=bool(sample),
        )
        for index in range(6)
        for sample in range(2)
    ]


def _outcome(batches: int, status: str) -> Outcome:
    return make_outcome(
        status=status,
        batches=batches,
        trained=32 * batches,
        retired={"stale": 3, "reward": 0},
        issued=32 * batches + 3,
        published=32 * batches + 3,
        idle_s=40.0,
        total_s=40.0 + 2.0 * batches,
    )
