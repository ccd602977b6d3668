"""`summary.json` says what the files say."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from isentrope.report.facts import read
from isentrope.report.summary import Summary, summarise

MakeRun = Callable[..., Path]

PROMISED = {
    *("mode", "method", "seed", "batches", "reward_first", "reward_last", "entropy_first", "entropy_last"),
    *("pass_at_1_before", "pass_at_1_after", "groups_issued", "groups_published", "groups_trained", "groups_retired"),
    *("tokens_trained", "max_token_lag", "seconds_total", "seconds_startup", "tokens_per_second"),
    *("learner_idle_share", "versions"),
}


def test_every_promised_field_is_there_and_known(make_run: MakeRun) -> None:
    summary = summarise(read(make_run())).model_dump()
    assert set(summary) >= PROMISED
    assert [name for name in PROMISED if summary[name] is None] == []


def test_first_and_last_are_means_of_ten_batches(make_run: MakeRun) -> None:
    folder = make_run(batches=25)
    rewards = [json.loads(line)["reward"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    summary = summarise(read(folder))
    assert summary.reward_first == pytest.approx(sum(rewards[:10]) / 10)
    assert summary.reward_last == pytest.approx(sum(rewards[-10:]) / 10)


def test_counts_of_groups_add_up(make_run: MakeRun) -> None:
    summary = summarise(read(make_run()))
    assert summary.groups_issued == (summary.groups_trained or 0) + (summary.groups_retired or 0)
    assert summary.groups_retired == sum(summary.retired.values()) == 3


def test_largest_lag_is_zero_on_policy(make_run: MakeRun) -> None:
    assert summarise(read(make_run(mode="on_policy"))).max_token_lag == 0


def test_times_split_into_startup_and_training(make_run: MakeRun) -> None:
    """The fixture's first batch is done 62 s after the command began, of which it was trained for 1.3 s; then one batch
    every 2 s, of which 0.5 s waiting; the learner ends 5 s after its last batch."""
    summary = summarise(read(make_run(batches=80)))
    assert summary.seconds_startup == pytest.approx(60.7)
    assert summary.seconds_total == pytest.approx(60.0 + 160.0 + 5.0)
    assert summary.learner_idle_share == pytest.approx(79 * 0.5 / (2.0 * 79 + 1.3))
    assert summary.tokens_per_second == pytest.approx(80 * 2800 / (2.0 * 79 + 1.3))


def test_batches_of_an_earlier_command_do_not_count_for_this_ones_speed(make_run: MakeRun) -> None:
    folder = make_run(batches=80)
    record = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(record | {"started": record["started"] + 60.0 + 2.0 * 40 + 1.0}))
    summary = summarise(read(folder))
    assert summary.tokens_trained == 80 * 2800
    assert summary.seconds_startup == pytest.approx(1.0 - 1.3)
    assert summary.tokens_per_second == pytest.approx(40 * 2800 / (2.0 * 39 + 1.3))


def test_an_empty_folder_gives_unknowns_not_zeros(tmp_path: Path) -> None:
    summary = summarise(read(tmp_path))
    known = {name for name, value in summary.model_dump().items() if value not in (None, 0, {})}
    assert known == set()
    assert Summary.model_validate_json(summary.model_dump_json()) == summary
