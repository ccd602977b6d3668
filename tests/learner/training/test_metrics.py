"""Lines of metrics: their fields, their files, and that they can be taken back."""

import json
import urllib.request
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from toy_batch import make_toy_arrays
from toy_run import rows

from isentrope.errors import ConfigError
from isentrope.learner.config import LearnerConfig
from isentrope.learner.intake.packing import Arrays, to_batch
from isentrope.learner.objective.presets import build, load_objective
from isentrope.learner.training.metrics import Drawn, Journal, batch_row, scalars
from isentrope.learner.training.sinks import Prometheus, open_sinks
from isentrope.learner.training.trainer import BatchFacts, UpdateFacts

ARRAYS = make_toy_arrays(groups=3, group_size=4, number=6)


def test_a_pass_rate_counts_what_was_replaced() -> None:
    drawn = Drawn(4, {"stale": 1, "all_correct": 2})
    row = {"pass_rate": 0.5, "responses": 8}
    retired = {"stale": 3, "all_correct": 5, "none_correct": 1}
    assert drawn.pass_rate(row, retired) == (4 + 12) / (8 + 16)
    assert drawn.pass_rate(row, retired) == 0.5


def facts_of_batch(*applied: bool, arrays: Arrays = ARRAYS) -> BatchFacts:
    """A batch whose policy is the one that sampled, after updates of which some were applied."""
    objective = build(load_objective("grpo", {}, Path()), Path(), max_new_tokens=13)
    batch = to_batch(arrays, seed=0)
    shape = batch.mask.shape
    entropy = torch.linspace(0.01, 3.0, shape.numel()).view(shape)
    object.__setattr__(batch, "logp_old", batch.logp_rollout + 0.5)
    object.__setattr__(batch, "entropy_old", entropy)
    everything = torch.arange(len(batch.group))
    prepared = objective.prepare(batch, [everything] * len(applied))
    logp = batch.logp_rollout.clone().requires_grad_()
    parts = objective.token_loss(prepared, 0, everything, logp, entropy)
    sums = {name: float(value) for name, value in parts.sums.items()}
    maxima = {name: float(value) for name, value in parts.maxima.items()}
    updates = [UpdateFacts(each, 2.0 if each else float("inf"), sums, maxima) for each in applied]
    return BatchFacts(batch, prepared, tuple(updates), {}, 0.0, 0.0)


def row_of(*applied: bool) -> dict[str, Any]:
    return batch_row(ARRAYS, facts_of_batch(*applied))


READ_BY_REPORTS = {
    *("batch", "reward", "reward_std", "pass_rate", "entropy", "entropy_deciles", "entropy_hist"),
    *("loss", "grad_norm", "clip_high", "clip_low", "ratio_mean", "ratio_max", "kept", "tokens"),
    *("groups", "responses", "length_mean", "truncated", "logp_gap_mean", "logp_gap_max"),
    *("lag_mean", "lag_max", "lag_hist", "tokens_masked", "objective"),
}


def test_a_row_has_what_reports_read() -> None:
    row = row_of(True, True)
    assert row.keys() >= READ_BY_REPORTS
    assert json.loads(json.dumps(row)) == row
    assert (row["batch"], row["groups"], row["responses"]) == (7, 3, 12)
    assert row["tokens"] == int(ARRAYS.length.sum()) == sum(row["lag_hist"].values())
    assert row["logp_gap_mean"] == pytest.approx(0.5)
    assert len(row["entropy_hist"]["edges"]) == len(row["entropy_hist"]["counts"]) + 1
    assert sum(row["entropy_hist"]["counts"]) == row["tokens"]


def test_lags_are_those_of_what_was_trained_and_what_was_masked_is_counted() -> None:
    lag = np.full_like(ARRAYS.lag, 1)
    lag[0] = 3
    old = int(ARRAYS.length[0])
    arrays = replace(ARRAYS, lag=lag, mask=ARRAYS.mask & (lag <= 2))
    row = batch_row(arrays, facts_of_batch(True, arrays=arrays))
    assert (row["lag_max"], row["lag_mean"], row["tokens_masked"]) == (1, 1.0, old)
    assert row["lag_hist"] == {"1": row["tokens"]}


def test_skipped_updates_are_counted_and_left_out_of_means() -> None:
    row = row_of(True, False, True)
    assert (row["updates"], row["skipped"], row["grad_norm"]) == (3, 1, 2.0)
    whole = row_of(True)
    assert (row["loss"], row["ratio_mean"]) == (whole["loss"], whole["ratio_mean"])


def test_numbers_of_nested_maps_have_joined_names() -> None:
    row = {"a": 1, "b": {"c": 2.5, "d": [1, 2], "e": {"f": True}}, "g": "text"}
    assert scalars(row) == {"a": 1.0, "b/c": 2.5, "b/e/f": 1.0}


def test_a_journal_forgets_what_is_trained_again(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    journal = Journal(path)
    journal.rewind(3)
    for batch in range(1, 6):
        journal.append({"batch": batch})
    with path.open("a") as file:
        file.write('{"batch": 2, "cut o')
    journal.rewind(3)
    assert [row["batch"] for row in rows(path)] == [1, 2, 3]
    journal.rewind(-1)
    assert rows(path) == []


def test_prometheus_shows_the_newest_batch_on_the_loopback_address_only() -> None:
    sink = Prometheus(0)
    try:
        host, port = sink.address
        assert host == "127.0.0.1"
        sink.write(3, {"reward": 0.25})
        sink.write(4, {"reward": 0.5})
        with urllib.request.urlopen(f"http://{host}:{port}/metrics") as reply:
            text = reply.read().decode()
        assert 'isentrope_learner{name="reward"} 0.5' in text
        assert 'isentrope_learner{name="batch"} 4.0' in text
        with pytest.raises(ConfigError, match="cannot be opened"):
            Prometheus(port)
    finally:
        sink.close()


def test_tensorboard_files_are_written_if_asked_for(tmp_path: Path) -> None:
    assert open_sinks(LearnerConfig(), tmp_path) == []
    (sink,) = open_sinks(LearnerConfig(tensorboard=True), tmp_path)
    sink.write(1, {"reward": 0.5})
    sink.close()
    assert list((tmp_path / "tensorboard").glob("events.*"))
