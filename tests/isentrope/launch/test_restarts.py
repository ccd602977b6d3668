"""Deaths of ranks count as long as no new checkpoint comes in between."""

from pathlib import Path

import pytest

from isentrope.launch.restarts import Restarts
from isentrope.learner.training.checkpoint_store import CHECKPOINTS, newest_batch


def _save(output_dir: Path, name: str) -> None:
    (output_dir / CHECKPOINTS / name).mkdir(parents=True)


def test_a_run_that_goes_on_between_deaths_survives_any_number_of_them(tmp_path: Path) -> None:
    restarts = Restarts(tmp_path, limit=1)
    for batch in range(20):
        _save(tmp_path, f"step-{batch}-{batch + 1}")
        assert restarts.may_go_on() and restarts.count == 1


@pytest.mark.parametrize("limit", [0, 1, 3])
def test_one_death_more_than_allowed_without_a_checkpoint_ends_it(tmp_path: Path, limit: int) -> None:
    restarts = Restarts(tmp_path, limit)
    assert [restarts.may_go_on() for _ in range(limit + 1)] == [True] * limit + [False]


def test_a_checkpoint_that_is_not_finished_or_not_further_is_not_a_new_one(tmp_path: Path) -> None:
    _save(tmp_path, "step-10-1")
    restarts = Restarts(tmp_path, limit=1)
    assert restarts.may_go_on()
    _save(tmp_path, "step-10-2")  # of the ranks that were started again
    _save(tmp_path, "step-11-2.tmp")
    assert not restarts.may_go_on()


def test_batches_are_numbers(tmp_path: Path) -> None:
    assert newest_batch(tmp_path) == -1
    for name in ("step-9-1", "step-10-1", "latest.1"):
        (tmp_path / name).mkdir()
    assert newest_batch(tmp_path) == 10
