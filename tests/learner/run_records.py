"""Builders of the records that a run leaves in its folder, with values that nobody looks at filled in."""

from typing import Any

from isentrope.learner.measures import BatchProcess, BatchTime, FunctionReward, Measures, ServedPolicy, Untrained
from isentrope.learner.records import RUN_SCHEMA, BatchRow, Outcome, RunRecord

MEASURES = Measures(
    groups_same_reward=0.5,
    groups_all_correct=0.25,
    groups_all_wrong=0.25,
    kept_policy=1.0,
    importance_mean=1.0,
    importance_max=1.0,
    importance_effective=1.0,
    kl_rollout=0.0,
    kl_rollout_k1=0.0,
    drift_quantiles=(0.0, 0.0, 0.0),
)

TIME = BatchTime(
    at=1.7e9,
    seconds_total=35.0,
    wait_s=0.5,
    stats_s=0.2,
    update_s=1.1,
    publish_s=0.1,
    evaluate_s=0.0,
    checkpoint_s=0.1,
    tokens_per_second=1234.5,
)

SERVED = ServedPolicy(version=1, tensors=30, gap_mean=2e-7, gap_max=1e-6, seconds=0.1, refused=0)

ROW = BatchRow(
    batch=1,
    reward=0.5,
    reward_std=0.5,
    rewards={"task:digit_walk": FunctionReward(mean=0.5, std=0.5, missing=0.0)},
    pass_rate=0.5,
    entropy=0.25,
    loss=0.0,
    clip_high=0.011,
    clip_low=0.006,
    ratio_mean=1.0,
    ratio_max=1.2,
    kept=1.0,
    tokens=2800,
    length_mean=7.0,
    truncated=0.0,
    logp_gap_mean=3e-7,
    logp_gap_max=1.1e-5,
    grad_norm=0.3,
    updates=2,
    skipped=0,
    groups=32,
    responses=256,
    lag_mean=1.0,
    lag_max=2,
    lag_hist={0: 300, 1: 2400, 2: 100},
    tokens_masked=0,
    untrained=Untrained(groups={}, failed={}, retired={}, masked={}, filtered={}),
    objective=MEASURES,
    mode="async",
    trained=32,
    retired=0,
    issued=64,
    process=BatchProcess(ready_groups=12, idle_s=0.5, actors=1, served=SERVED, ranks=2),
    version=1,
    time=TIME,
)


def make_row(batch: int = 1, **changes: Any) -> BatchRow:
    """Return the line of a batch."""
    return BatchRow.model_validate(dict(ROW) | {"batch": batch} | changes)


def row_at(number: int, at: float, wait_s: float = 1.0) -> BatchRow:
    """Return the line of a batch that was written at a time, after a wait."""
    time = BatchTime.model_validate(dict(TIME) | {"at": at, "wait_s": wait_s, "stats_s": 0.5, "update_s": 2.0})
    return make_row(number, time=time)


def make_outcome(**changes: Any) -> Outcome:
    """Return how a run ended; without changes: stopped, and nothing trained."""
    return Outcome.model_validate(dict(Outcome.of_nothing()) | changes)


def make_run_record(**changes: Any) -> RunRecord:
    """Return what runs in a folder."""
    values: dict[str, Any] = {
        "schema_version": RUN_SCHEMA,
        "run": "demo",
        "config_digest": "c",
        "data_digest": "d",
        "method": "grpo",
        "mode": "async",
        "correct": "task:digit_walk > 0.5",
        "seed": 0,
        "batches": 10,
        "actors": 1,
        "ranks": 1,
        "run_file": "run.toml",
        "started": 1.0,
        "versions": {},
        "host": "here",
        "pid": 1,
        "socket": "",
        "url_env": "",
        "password_file": "",
        "passwords": "",
        "ca_file": "",
        "insecure": False,
        "only": "",
        "groups_of": "",
    }
    return RunRecord.model_validate(values | changes)
