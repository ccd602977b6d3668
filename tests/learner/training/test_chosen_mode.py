"""A mode that was chosen outlives the learner that answered, and counts until a checkpoint of a later batch has one."""

import errno
import os
from pathlib import Path

import pytest
from feeding import P, assert_exactly_once, finish, running
from hypothesis import given
from hypothesis import strategies as st

from isentrope.learner.intake.ledger import LedgerState
from isentrope.learner.intake.plan_record import PlanRecord
from isentrope.learner.training import chosen_mode
from isentrope.learner.training.checkpoint_store import CheckpointState
from isentrope.learner.training.chosen_mode import CHOSEN, in_chosen_mode, keep_mode
from isentrope.rollout.wire.control import Mode
from isentrope.rollout.wire.types import version_of


def state_of(batch: int, mode: Mode = Mode.ASYNC) -> CheckpointState:
    return CheckpointState(config_digest="c", data_digest="d", mode=mode, ledger=LedgerState(batches=batch))


@given(chosen_at=st.integers(0, 9), saved_at=st.integers(0, 9), modes=st.tuples(*2 * [st.sampled_from(Mode)]))
def test_what_was_chosen_counts_until_a_checkpoint_of_a_later_batch_holds_it(
    tmp_path_factory: pytest.TempPathFactory, chosen_at: int, saved_at: int, modes: tuple[Mode, Mode]
) -> None:
    folder, (chosen, saved) = tmp_path_factory.mktemp("run"), modes
    assert in_chosen_mode(state_of(saved_at, saved), folder) == state_of(saved_at, saved)
    keep_mode(folder, chosen, chosen_at)
    expected = chosen if chosen_at >= saved_at else saved
    assert in_chosen_mode(state_of(saved_at, saved), folder) == state_of(saved_at, expected)


def test_a_disk_that_refuses_or_has_damaged_it_costs_only_the_choice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(path: Path, data: bytes | str, *, durable: bool) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as full:
        full.setattr(chosen_mode, "write_whole", refuse)
        keep_mode(tmp_path, Mode.ON_POLICY, 3)
    assert "is forgotten if the learner dies" in caplog.text
    (tmp_path / CHOSEN).write_text("{")
    assert in_chosen_mode(state_of(2), tmp_path) == state_of(2) and "cannot be read" in caplog.text


def test_a_learner_that_starts_in_it_trains_the_plans_from_before_it_again(
    redis_server: str, run_name: str, tmp_path: Path
) -> None:
    with running(redis_server, run_name) as run:
        learner, actor = run.learner(), run.actor()
        actor.work(2 * P, version_of(1, 0))
        learner.train(learner.next())
        keep_mode(tmp_path, Mode.ON_POLICY, 1)
        run.kill(learner)
        after = run.learner(mode=in_chosen_mode(state_of(0), tmp_path).mode)
        again = after.next()
        assert again.replayed and again.record.mode is Mode.ASYNC
        after.train(again)
        finish(after, actor, run.batches)
        modes = [PlanRecord.model_validate_json(plan).mode for plan in after.port.plans().values()]
        assert modes == [Mode.ASYNC] + [Mode.ON_POLICY] * (run.batches - 1)
        assert_exactly_once(run, after)
