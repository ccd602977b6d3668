"""Rates and lengths that a run's metrics tell."""

from pathlib import Path

import pytest
from run_records import TIME, make_row

from isentrope.capacity.measured import measure
from isentrope.errors import RunFolderError
from isentrope.learner.measures import BatchProcess


def write(folder: Path, *rows: object) -> Path:
    (folder / "metrics.jsonl").write_text("".join(f"{row.model_dump_json(exclude_none=True)}\n" for row in rows))  # type: ignore[attr-defined]
    return folder


def test_rates_are_those_of_the_batches_after_the_first(tmp_path: Path) -> None:
    time = TIME.model_copy(
        update={"wait_s": 6.0, "stats_s": 1.0, "update_s": 2.5, "publish_s": 0.5, "checkpoint_s": 0.0}
    )
    process = BatchProcess(ready_groups=0, idle_s=0.0, actors=2)
    start = make_row(1, length_mean=999.0, trained=32, retired=0)
    rows = [
        make_row(n, length_mean=10.0, responses=200, trained=32 * n, retired=16 * (n - 1), time=time, process=process)
        for n in (2, 3)
    ]
    found = measure(write(tmp_path, start, *rows))
    assert (found.response_tokens, found.retired_share) == (10, 0.5)
    assert found.learner_tokens == pytest.approx(2000 / 4.0)
    assert found.actor_tokens == pytest.approx(2000 * 1.5 / 10.0 / 2)
    assert found.learner_idle == pytest.approx(0.6)
    assert found.publish_s == 0.5


def test_neither_a_damaged_line_nor_a_count_that_stands_ends_it(tmp_path: Path) -> None:
    folder = write(tmp_path, *(make_row(n, length_mean=10.0, trained=32, retired=0) for n in (1, 2, 3)))
    first, *others = (folder / "metrics.jsonl").read_text().splitlines(keepends=True)
    (folder / "metrics.jsonl").write_text(first + "{\n" + "".join(others))
    assert (measure(folder).response_tokens, measure(folder).retired_share) == (10, 0.0)


def test_a_run_without_batches_is_refused_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="0 trained batches, at least 2") as refused:
        measure(tmp_path)
    assert "--tokens-per-second" in refused.value.fix
