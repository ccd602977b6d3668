"""Which deaths count, and what becomes of a plan that has killed the ranks: real broker and feeder, once real
ranks."""

import errno
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from feeding import Actor, Learner, P, Run, assert_exactly_once, finish, running, seqs
from hypothesis import given
from hypothesis import strategies as st
from toy_run import rows
from waits import wait_until
from whole_run import Run as WholeRun

from isentrope.learner.intake.buffer import ReadyBatch
from isentrope.learner.training import dead_letters
from isentrope.learner.training.dead_letters import LETTERS, DeadLetters, requeue_name
from isentrope.learner.training.fault_points import VARIABLE
from isentrope.learner.training.poison import STEP, Poison, Step, after_death
from isentrope.rollout.wire.types import version_of


class Killed(BaseException):
    """The ranks died here."""


class PoisonedRun:
    """Learners of one run that die in some plans."""

    def __init__(self, run: Run, folder: Path) -> None:
        self.run, self.folder = run, folder
        self.learner, self.poison = self._start()

    def _start(self) -> tuple[Learner, Poison]:
        poison = Poison(self.folder, self.run.claims + 1, limit=2)
        return self.run.learner(before=poison.restore), poison

    def restart(self) -> None:
        self.run.kill(self.learner)
        self.learner, self.poison = self._start()

    def die_in(self, batch: ReadyBatch) -> None:
        with pytest.raises(Killed), self.poison.watched(batch.record):
            raise Killed
        self.restart()

    def train(self, batch: ReadyBatch) -> None:
        with self.poison.watched(batch.record):
            pass
        self.learner.train(batch)

    def next(self, actor: Actor) -> ReadyBatch:
        """The next batch, whose orders `actor` answers."""
        learner = self.learner

        def complete() -> ReadyBatch | None:
            for order in actor.port.take(P, 0.05):
                actor.publish(order, learner.version)
            return learner.feeder.next_batch(0.0)

        return wait_until(complete, learner.feeder.why_waiting)

    def retire(self, batch: ReadyBatch) -> bool:
        return self.poison.retire(batch, self.learner.feeder)


@pytest.fixture
def poisoned(redis_server: str, run_name: str, tmp_path: Path) -> Iterator[PoisonedRun]:
    with running(redis_server, run_name) as run:
        yield PoisonedRun(run, tmp_path)


@pytest.fixture
def actor(poisoned: PoisonedRun) -> Actor:
    return poisoned.run.actor()


def dead(poisoned: PoisonedRun, actor: Actor) -> str:
    """Have the first batch killed twice and retired; return its letter's name."""
    actor.work(2 * P, version_of(1, 0))
    for _ in range(2):
        batch = poisoned.learner.next()
        assert seqs(batch) == [0, 1, 2, 3] and not poisoned.retire(batch)
        poisoned.die_in(batch)
    batch = poisoned.learner.next()
    assert batch.replayed and poisoned.retire(batch)
    (letter,) = DeadLetters(poisoned.folder).letters()
    return letter.name


def test_a_plan_that_killed_the_ranks_twice_is_retired_and_training_goes_on(
    poisoned: PoisonedRun, actor: Actor
) -> None:
    name = dead(poisoned, actor)
    learner = poisoned.learner
    assert learner.feeder.status().retired == {"poison": P}
    assert LETTERS.validate_json(learner.port.view.dead_letters())[0].name == name
    batch = learner.next()
    assert seqs(batch) == [4, 5, 6, 7] and batch.record.batch == 1
    poisoned.train(batch)
    finish(learner, actor, poisoned.run.batches)
    assert_exactly_once(poisoned.run, learner)


@pytest.mark.parametrize("lost", [False, True])
def test_what_is_dead_stays_dead_without_a_checkpoint(poisoned: PoisonedRun, actor: Actor, lost: bool) -> None:
    dead(poisoned, actor)
    poisoned.train(poisoned.learner.next())
    if lost:
        poisoned.learner.port.broker.run(lambda client: client.delete(poisoned.learner.port.broker.keys.plans))
    poisoned.restart()
    assert poisoned.learner.feeder.status().retired == {"poison": P}
    batch = poisoned.learner.next()
    assert seqs(batch) == [4, 5, 6, 7] and batch.replayed is not lost
    poisoned.train(batch)
    finish(poisoned.learner, actor, poisoned.run.batches)
    assert_exactly_once(poisoned.run, poisoned.learner)


@pytest.mark.parametrize("committed", [False, True])
@pytest.mark.parametrize("by_broker", [False, True])
@pytest.mark.parametrize("dies", [False, True])
def test_a_requeued_group_is_trained_once(
    poisoned: PoisonedRun, actor: Actor, committed: bool, by_broker: bool, dies: bool
) -> None:
    name = dead(poisoned, actor)
    poisoned.train(poisoned.learner.next())
    if committed:
        poisoned.run.save(poisoned.learner)
        assert poisoned.learner.port.view.text(poisoned.learner.port.broker.keys.lwm) == str(2 * P)
    if by_broker:
        poisoned.learner.port.view.requeue([requeue_name(name, 2)])
    else:
        DeadLetters(poisoned.folder).requeue(requeue_name(name, 2))
    poisoned.poison.requeue(poisoned.learner.feeder)
    if dies:
        poisoned.restart()
    learner = poisoned.learner
    assert learner.port.view.requeues() == [] and learner.feeder.status().retired == {"poison": P - 1}
    batch = poisoned.next(actor)
    if dies and not committed:
        assert batch.replayed
        poisoned.train(batch)
        batch = poisoned.next(actor)
    assert 2 in seqs(batch)
    poisoned.train(batch)
    for saved in (False, True):
        if saved:
            poisoned.run.save(learner)
        poisoned.poison.requeue(learner.feeder)
        assert learner.feeder.status().retired == {"poison": P - 1}
    finish(learner, actor, poisoned.run.batches)
    poisoned.restart()
    finish(poisoned.learner, actor, poisoned.run.batches)
    assert_exactly_once(poisoned.run, poisoned.learner)
    assert [seq for batch in poisoned.learner.lineage for seq in batch].count(2) == 1


def test_a_counter_falls_to_nothing_when_all_groups_are_requeued(poisoned: PoisonedRun, actor: Actor) -> None:
    name = dead(poisoned, actor)
    counters = poisoned.learner.port.counters
    wait_until(lambda: counters().get("retired:poison") == P, "the learner's report")
    for seq in range(P):
        DeadLetters(poisoned.folder).requeue(requeue_name(name, seq))
    poisoned.restart()
    wait_until(lambda: counters().get("retired:poison") == 0, "the next learner's report")
    finish(poisoned.learner, actor, poisoned.run.batches)
    assert_exactly_once(poisoned.run, poisoned.learner)


def test_a_requeue_that_comes_after_the_last_look_is_kept_for_a_run_that_goes_on(
    poisoned: PoisonedRun, actor: Actor
) -> None:
    name, view = requeue_name(dead(poisoned, actor), 2), poisoned.learner.port.view
    view.requeue([name])
    poisoned.poison.keep_requeues(poisoned.learner.feeder)
    assert list(DeadLetters(poisoned.folder).requeues()) == [name] and view.requeues() == []
    assert poisoned.learner.ledger.requeued == set(), "nothing of this run"


def test_a_requeue_of_a_letter_that_is_not_there_is_answered(poisoned: PoisonedRun, actor: Actor) -> None:
    view = poisoned.learner.port.view
    view.requeue(["1-1-00000000.2", "\x1b[2J"])
    poisoned.poison.requeue(poisoned.learner.feeder)
    assert view.requeues() == [] and poisoned.learner.ledger.requeued == set()


@pytest.mark.parametrize("refused", [(Path, "touch"), (dead_letters, "sync")])
def test_a_requeue_that_the_disk_refuses_ends_nothing_and_stays_asked_for(
    poisoned: PoisonedRun,
    actor: Actor,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    refused: tuple[object, str],
) -> None:
    name = requeue_name(dead(poisoned, actor), 0)
    view = poisoned.learner.port.view
    view.requeue([name, "1-1-00000000.2"])
    with monkeypatch.context() as full:
        full.setattr(*refused, full_disk)
        for _ in range(3):
            poisoned.poison.requeue(poisoned.learner.feeder)
        assert view.requeues() == [name] and caplog.text.count("cannot be requeued yet") == 1
    poisoned.poison.requeue(poisoned.learner.feeder)
    assert view.requeues() == [] and poisoned.learner.ledger.requeued == {0}


def full_disk(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_note_of_a_step_that_cannot_be_removed_ends_nothing(
    poisoned: PoisonedRun, actor: Actor, monkeypatch: pytest.MonkeyPatch
) -> None:
    actor.work(P, version_of(1, 0))
    batch = poisoned.learner.next()
    with monkeypatch.context() as full:
        full.setattr(Path, "unlink", full_disk)
        poisoned.train(batch)
    assert poisoned.learner.ledger.batches == 1


def test_stored_plans_that_follow_a_retired_one_are_trained_as_other_batches(
    poisoned: PoisonedRun, actor: Actor
) -> None:
    actor.work(2 * P, version_of(1, 0))
    for _ in range(2):
        poisoned.train(poisoned.learner.next())
    poisoned.restart()
    for _ in range(2):
        poisoned.die_in(poisoned.learner.next())
    assert poisoned.retire(poisoned.learner.next())
    batch = poisoned.learner.next()
    assert seqs(batch) == [4, 5, 6, 7] and batch.record.batch == 1 and not batch.replayed


def test_a_death_during_a_start_ends_the_count(poisoned: PoisonedRun, actor: Actor) -> None:
    actor.work(P, version_of(1, 0))
    poisoned.die_in(poisoned.learner.next())
    poisoned.restart()
    poisoned.die_in(poisoned.learner.next())
    assert not poisoned.retire(poisoned.learner.next())


@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), max_size=30))
def test_deaths_count_that_follow_each_other_in_one_plan(steps: list[tuple[str, bool]]) -> None:
    """A step is of a plan, and ends well or in a death; what is left behind is read by the next learner alone."""
    counted, in_a_row, last = Step(), 0, ""
    for plan, died in steps:
        if died:
            counted = after_death(counted.model_copy(update={"plan": plan}))
            in_a_row, last = (in_a_row + 1 if plan == last else 1), plan
            assert (counted.suspect, counted.deaths) == (plan, in_a_row)
    assert after_death(counted) == Step(), "a death elsewhere"


def test_a_file_that_cannot_be_read_or_written_costs_only_the_count(
    poisoned: PoisonedRun, actor: Actor, tmp_path: Path
) -> None:
    actor.work(P, version_of(1, 0))
    (tmp_path / STEP).write_text("{")
    assert not Poison(tmp_path, 1, limit=1).retire(poisoned.learner.next(), poisoned.learner.feeder)
    (tmp_path / STEP).unlink()
    (tmp_path / f"{STEP}.tmp").mkdir()
    poisoned.train(poisoned.learner.feeder._buffer.in_hand or pytest.fail("no batch"))


@pytest.mark.slow
def test_a_run_goes_on_after_a_batch_that_kills_its_ranks(new_run: Callable[..., WholeRun]) -> None:
    run = new_run(mode="async", ranks=1, batches=3)
    for _ in range(2):
        assert run.start(**{VARIABLE: "train.begun:2"}).wait() != 0
    run.to_the_end()
    size = run.job.config.prompts_per_batch
    assert run.outcome["status"] == "finished" and run.accounts_for_every_group()
    assert run.outcome["retired"] == {"poison": size} and run.outcome["trained"] == 3 * size
    assert [row["untrained"]["groups"] for row in run.rows][1] == {"poison": size}
    (letter,) = DeadLetters(run.folder).letters()
    assert (letter.batch, letter.deaths, len(letter.groups)) == (2, 2, size)
    assert any(
        letter.name in row["text"] and "died 2 times" in row["text"] for row in rows(run.folder / "notices.jsonl")
    )
    assert json.loads(run.view.dead_letters())[0]["name"] == letter.name
    assert not (run.folder / STEP).exists()
