"""Deaths of ranks count as long as no new checkpoint or dead letter comes in between."""

from pathlib import Path

import pytest
from kept_batches import make_batch

from isentrope.launch.restarts import Restarts
from isentrope.learner.training.checkpoint_store import CHECKPOINTS, newest_batch
from isentrope.learner.training.dead_letters import DeadLetters


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


POISON_AFTER = 2
"""The default of `learner.poison_after`."""


def _die_and_retire(output_dir: Path, restarts: Restarts, batch: int) -> list[bool]:
    """Have the ranks die in a plan until it is retired; return what each death allows."""
    allowed = [restarts.may_go_on() for _ in range(POISON_AFTER)]
    DeadLetters(output_dir).write(make_batch(batch), incarnation=batch, deaths=POISON_AFTER)
    return allowed


def test_every_poisoned_plan_is_a_count_of_its_own(tmp_path: Path) -> None:
    restarts = Restarts(tmp_path, limit=3)
    for batch in range(1, 4):
        assert _die_and_retire(tmp_path, restarts, batch) == [True, True]


def test_every_letter_of_a_batch_that_is_poisoned_again_and_again_counts(tmp_path: Path) -> None:
    """Their names do not tell which is the newest."""
    restarts = Restarts(tmp_path, limit=8)
    for text in map(str, range(8)):
        assert restarts.may_go_on() and restarts.count == 1
        DeadLetters(tmp_path).write(make_batch(3, text), incarnation=1, deaths=POISON_AFTER)


@pytest.mark.parametrize("limit", [POISON_AFTER, 3, 5])
def test_ranks_that_every_plan_kills_end_the_run_all_the_same(tmp_path: Path, limit: int) -> None:
    restarts, allowed = Restarts(tmp_path, limit), list[bool]()
    for batch in range(1, 2 * limit + 1):
        allowed += _die_and_retire(tmp_path, restarts, batch)
    assert not allowed[-1] and allowed.index(False) > limit * POISON_AFTER
    _save(tmp_path, "step-1-9")
    assert restarts.may_go_on() and restarts.count == 1
    assert _die_and_retire(tmp_path, restarts, 100) == [True, limit >= 3]
    assert restarts.may_go_on() and restarts.count == 1


def test_batches_are_numbers(tmp_path: Path) -> None:
    assert newest_batch(tmp_path) == -1
    for name in ("step-9-1", "step-10-1", "latest.1"):
        (tmp_path / name).mkdir()
    assert newest_batch(tmp_path) == 10
