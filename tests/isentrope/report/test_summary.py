"""`summary.json` says what the files say."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from run_records import SERVED, make_row

from isentrope import report
from isentrope.learner import json_files
from isentrope.learner.measures import BatchProcess
from isentrope.learner.records import BatchRow, RunRecord, Summary
from isentrope.report.contents import read_contents
from isentrope.report.summary import proven, summarise

MakeRun = Callable[..., Path]


def test_everything_is_known_of_a_whole_run_and_written_down(make_run: MakeRun) -> None:
    folder = make_run()
    report.write(folder)
    written = json.loads((folder / Summary.FILE).read_text())
    assert written.keys() == Summary.model_fields.keys()
    assert [name for name, value in written.items() if value is None] == []
    assert Summary.model_validate(written) == summarise(read_contents(folder))


def test_the_law_is_that_of_the_newest_line(make_run: MakeRun) -> None:
    folder = make_run()
    *_, last = json_files.read_lines(folder, BatchRow)
    assert last.objective.entropy_law is not None
    assert summarise(read_contents(folder)).entropy_law == last.objective.entropy_law


def test_first_and_last_are_means_of_ten_batches(make_run: MakeRun) -> None:
    folder = make_run(batches=25)
    rewards = [json.loads(line)["reward"] for line in (folder / BatchRow.FILE).read_text().splitlines()]
    summary = summarise(read_contents(folder))
    assert summary.reward_first == pytest.approx(sum(rewards[:10]) / 10)
    assert summary.reward_last == pytest.approx(sum(rewards[-10:]) / 10)


def test_counts_of_groups_add_up(make_run: MakeRun) -> None:
    summary = summarise(read_contents(make_run()))
    assert summary.groups_issued == (summary.groups_trained or 0) + (summary.groups_retired or 0)
    assert summary.groups_retired == sum(summary.retired.values()) == 3


def test_proofs_are_the_worst_of_all_batches() -> None:
    def row(batch: int, **changes: Any) -> BatchRow:
        served = SERVED.model_copy(update={"version": batch, **changes})
        return make_row(batch, process=BatchProcess(ready_groups=0, idle_s=0.0, actors=1, served=served))

    rows = [row(1), row(2, gap_mean=3e-7, seconds=0.5), row(2, gap_max=4e-6), row(3, refused=2, gap_mean=None)]
    assert proven([*rows, make_row(4, process=BatchProcess(ready_groups=0, idle_s=0.0, actors=0))]) == {
        "versions_proven": 3,
        "versions_refused": 2,
        "canary_gap_mean": 3e-7,
        "canary_gap_max": 4e-6,
        "canary_seconds": 0.1,
    }


def test_each_number_of_ranks_is_named_in_its_order(make_run: MakeRun) -> None:
    contents = read_contents(make_run())
    ranks = (None, 2, 2, 1, 2)
    rows = [
        make_row(batch, process=BatchProcess(ready_groups=0, idle_s=0.0, actors=1, ranks=count))
        for batch, count in enumerate(ranks, 1)
    ]
    assert summarise(replace(contents, batches=rows)).ranks == [2, 1, 2]


def test_largest_lag_is_zero_on_policy(make_run: MakeRun) -> None:
    assert summarise(read_contents(make_run(mode="on_policy"))).max_token_lag == 0


def test_times_split_into_startup_and_training(make_run: MakeRun) -> None:
    """The fixture's first batch is done 62 s after the command began, of which it was trained for 1.3 s; then one batch
    every 2 s, of which 0.5 s waiting; the learner ends 5 s after its last batch."""
    summary = summarise(read_contents(make_run(batches=80)))
    assert summary.seconds_startup == pytest.approx(60.7)
    assert summary.seconds_total == pytest.approx(60.0 + 160.0 + 5.0)
    assert summary.learner_idle_share == pytest.approx(79 * 0.5 / (2.0 * 79 + 1.3))
    assert summary.tokens_per_second == pytest.approx(80 * 2800 / (2.0 * 79 + 1.3))


def test_batches_of_an_earlier_command_do_not_count_for_this_ones_speed(make_run: MakeRun) -> None:
    folder = make_run(batches=80)
    record = json_files.read(folder, RunRecord)
    assert record is not None
    json_files.write(folder, record.model_copy(update={"started": record.started + 60.0 + 2.0 * 40 + 1.0}))
    summary = summarise(read_contents(folder))
    assert summary.tokens_trained == 80 * 2800
    assert summary.seconds_startup == pytest.approx(1.0 - 1.3)
    assert summary.tokens_per_second == pytest.approx(40 * 2800 / (2.0 * 39 + 1.3))


def test_an_empty_folder_gives_unknowns_not_zeros(tmp_path: Path) -> None:
    summary = summarise(read_contents(tmp_path))
    known = {name for name, value in summary.model_dump().items() if value not in (None, 0, {}, [])}
    assert known == set()
    assert Summary.model_validate_json(summary.model_dump_json()) == summary
