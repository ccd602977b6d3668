"""Dead letters outlive every process: what they hold is dead until it is requeued, and each requeue counts once."""

import errno
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kept_batches import make_batch

from isentrope.errors import StorageError
from isentrope.learner.intake.ledger import Ledger, LedgerState
from isentrope.learner.training import dead_letters
from isentrope.learner.training.dead_letters import FOLDER, DeadLetters, requeue_name


@pytest.fixture
def letters(tmp_path: Path) -> DeadLetters:
    return DeadLetters(tmp_path)


def restored(letters: DeadLetters, state: LedgerState | None = None) -> Ledger:
    ledger = Ledger(state)
    letters.restore(ledger)
    return ledger


def test_a_letter_tells_what_is_in_it(letters: DeadLetters) -> None:
    name = letters.write(make_batch(3), incarnation=4, deaths=2)
    (listed,) = letters.letters()
    assert (listed.name, listed.batch, listed.deaths) == (name, 3, 2) and name.startswith("3-4-")
    assert [group.seq for group in listed.groups] == [30, 31]
    assert all(group.bytes > 0 and group.actor and not group.requeued for group in listed.groups)
    shown = letters.letter(name)
    own = make_batch(3).groups
    assert [group.responses for group in shown.groups] == [len(group.responses) for group in own]
    assert [group.longest for group in shown.groups] == [
        max(len(response.tokens) for response in group.responses) for group in own
    ]


def test_a_learner_that_begins_before_it_retires_the_same_groups(letters: DeadLetters) -> None:
    letters.write(make_batch(3), incarnation=1, deaths=2)
    ledger = restored(letters)
    assert ledger.reasons == {"poison": 2} and ledger.known(30) and ledger.known(31)
    assert restored(letters, ledger.state()).state() == ledger.state()


def test_a_requeued_group_is_open_until_it_is_done_and_never_again(letters: DeadLetters) -> None:
    name = requeue_name(letters.write(make_batch(3), incarnation=1, deaths=2), 30)
    before = restored(letters).state()
    assert letters.requeue(name) and letters.requeue(name)
    ledger = restored(letters, before)
    assert ledger.requeued == {30} and ledger.reasons == {"poison": 1} and not ledger.known(30)
    ledger.retire(30, "stale")
    done = ledger.state()
    assert restored(letters, done).state() == done, "the mark is still there"
    assert not Ledger(done).requeue(30, name)


def test_a_requeue_that_no_batch_was_left_for_is_carried_out_when_the_run_goes_on(letters: DeadLetters) -> None:
    for name in (
        requeue_name(letters.write(make_batch(3, trained), incarnation=1, deaths=2), 30) for trained in ("", "later")
    ):
        letters.requeue(name)
    ledger = restored(letters)
    assert ledger.withdraw() == 1
    assert ledger.reasons == {"poison": 2} and ledger.known(30) and not ledger.requeued
    assert restored(letters, ledger.state()).requeued == {30}


def test_what_dies_again_is_requeued_by_its_new_letter(letters: DeadLetters) -> None:
    first = requeue_name(letters.write(make_batch(3), incarnation=1, deaths=2), 30)
    letters.requeue(first)
    second = requeue_name(letters.write(make_batch(3, "later"), incarnation=2, deaths=2), 30)
    ledger = restored(letters)
    assert ledger.known(30) and not ledger.requeued
    letters.requeue(second)
    assert restored(letters, ledger.state()).requeued == restored(letters).requeued == {30}


def test_what_dies_again_in_the_same_batch_stays_dead_whatever_its_letters_are_called(tmp_path: Path) -> None:
    ascending = set[bool]()
    for text in map(str, range(8)):
        letters = DeadLetters(tmp_path / text)
        (tmp_path / text).mkdir()
        first = letters.write(make_batch(3), incarnation=1, deaths=2)
        before = restored(letters).state()
        letters.requeue(requeue_name(first, 30))
        second = letters.write(make_batch(3, text), incarnation=1, deaths=2)
        ascending.add(first < second)
        for state in (None, before):
            ledger = restored(letters, state)
            assert ledger.known(30) and not ledger.requeued
        letters.requeue(requeue_name(second, 30))
        assert restored(letters, ledger.state()).requeued == restored(letters).requeued == {30}
    assert ascending == {False, True}


@pytest.mark.parametrize("requeued", [0, 1])
def test_a_requeue_from_either_of_two_letters_of_a_plan_counts_at_every_start(
    letters: DeadLetters, requeued: int
) -> None:
    batch = make_batch(3)
    names = [letters.write(batch, incarnation, deaths=2) for incarnation in (1, 2)]
    letters.requeue(requeue_name(names[requeued], 30))
    ledger = restored(letters)
    assert ledger.requeued == {30} and ledger.reasons == {"poison": 1}
    assert restored(letters, ledger.state()).state() == ledger.state()
    assert not ledger.requeue(30, requeue_name(names[1 - requeued], 30))


def test_the_letter_of_a_learner_that_was_replaced_never_has_a_trained_group_trained_again(
    letters: DeadLetters,
) -> None:
    batch = make_batch(3)
    ledger = Ledger(LedgerState(batches=2))
    ledger.train(batch.record)
    trained = ledger.state()
    name = letters.write(batch, incarnation=1, deaths=2)
    letters.requeue(requeue_name(name, 30))
    assert restored(letters, trained).state() == trained


def test_a_requeue_of_nothing_is_refused(letters: DeadLetters) -> None:
    name = letters.write(make_batch(3), incarnation=1, deaths=2)
    for wrong in ("", name, "../x.3", f"{name}.x", "3-9-00000000.30", f"{name}.30/../../y"):
        assert not letters.requeue(wrong)
    assert letters.requeues() == {}


@given(cut=st.integers(0, 400))
def test_a_damaged_letter_ends_nothing_and_is_named(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    folder = tmp_path_factory.mktemp("run")
    letters = DeadLetters(folder)
    name = letters.write(make_batch(3), incarnation=1, deaths=2)
    whole = (folder / FOLDER / name).read_bytes()
    (folder / FOLDER / name).write_bytes(whole[:cut])
    assert letters.letters() == () and restored(letters).reasons == {}
    with pytest.raises(StorageError, match="of batch 3 is damaged"):
        letters.letter(name)


def test_of_too_many_the_oldest_that_a_checkpoint_covers_are_deleted(
    letters: DeadLetters, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dead_letters, "MAX_LETTERS", 2)
    names = [letters.write(make_batch(number), incarnation=1, deaths=2) for number in (9, 10, 11)]
    letters.requeue(requeue_name(names[0], 90))
    state = restored(letters).state()
    assert [letter.name for letter in letters.letters()] == names, "no checkpoint covers them"
    ledger = Ledger(state)
    ledger.retire(90, "stale")
    with monkeypatch.context() as patched:

        def refuse(path: Path) -> None:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))

        patched.setattr(Path, "unlink", refuse)
        restored(letters, ledger.state())
    assert [letter.name for letter in letters.letters()] == names, "the disk refuses it, which ends nothing"
    restored(letters, ledger.state())
    assert [letter.name for letter in letters.letters()] == names[1:] and letters.requeues() == {}
