"""The ledger: every seq is done once, and a checkpoint of it says the same."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isentrope.learner.intake.ledger import Ledger, LedgerState
from isentrope.learner.intake.plan_record import PlannedGroup, PlanRecord
from isentrope.rollout.wire.control import Mode


def record(ledger: Ledger, *seqs: int) -> PlanRecord:
    groups = tuple(PlannedGroup(seq, 0, f"{seq}-0") for seq in seqs)
    return PlanRecord(batch=ledger.batches + 1, mode=Mode.ASYNC, chain=ledger.chain, groups=groups)


def play(order: list[int], kinds: list[bool]) -> Ledger:
    ledger = Ledger()
    for seq, is_trained in zip(order, kinds, strict=True):
        if is_trained:
            ledger.train(record(ledger, seq))
        else:
            ledger.retire(seq, "stale")
    return ledger


histories = st.permutations(list(range(12))).flatmap(
    lambda order: st.integers(0, 12).flatmap(
        lambda count: st.tuples(st.just(order[:count]), st.lists(st.booleans(), min_size=count, max_size=count))
    )
)


@given(histories)
def test_the_low_watermark_is_the_first_seq_that_is_not_done(history: tuple[list[int], list[bool]]) -> None:
    ledger = play(*history)
    done = set(history[0])
    assert ledger.lwm == next(seq for seq in range(13) if seq not in done)
    assert {seq for seq in range(12) if ledger.known(seq)} == done
    assert ledger.cursor == max(done, default=-1) + 1
    assert ledger.trained + ledger.retired == len(done)


@given(histories, st.integers(0, 12))
def test_seqs_known_from_any_watermark_on_are_all_there(history: tuple[list[int], list[bool]], low: int) -> None:
    assert play(*history).known_from(low) == {seq for seq in history[0] if seq >= low}


@given(histories)
def test_a_checkpoint_restores_the_ledger(history: tuple[list[int], list[bool]]) -> None:
    ledger = play(*history)
    back = Ledger(LedgerState.model_validate_json(ledger.state().model_dump_json()))
    assert back.state() == ledger.state()
    assert back.known_from(0) == ledger.known_from(0)


def test_a_skipped_batch_is_one_of_the_chain_and_its_groups_are_retired() -> None:
    ledger, other = Ledger(), Ledger()
    plan = record(ledger, 0, 2)
    ledger.skip(plan, "nonfinite")
    other.train(plan)
    assert (ledger.batches, ledger.chain) == (other.batches, other.chain) == (1, plan.after)
    assert (ledger.trained, ledger.reasons, ledger.known_from(0)) == (0, {"nonfinite": 2}, {0, 2})
    with pytest.raises(AssertionError, match="follow each other"):
        ledger.skip(plan, "nonfinite")
    ledger.train(record(ledger, 1))
    assert Ledger(ledger.state()).state() == ledger.state()


@pytest.mark.parametrize("again", ["trained", "retired"])
def test_nothing_is_done_twice(again: str) -> None:
    ledger = play([0, 1], [True, False])
    for seq in (0, 1):
        with pytest.raises(AssertionError, match="done already"):
            if again == "trained":
                ledger.train(record(ledger, seq))
            else:
                ledger.retire(seq, "stale")


def test_a_batch_from_another_history_is_refused() -> None:
    ledger, other = play([0], [True]), play([1], [True])
    with pytest.raises(AssertionError, match="follow each other"):
        ledger.train(record(other, 2))


def test_the_chain_tells_histories_apart_by_order_entry_and_mode() -> None:
    start = Ledger()
    plan = record(start, 0, 1)
    others = [
        plan.model_copy(update={"groups": plan.groups[::-1]}),
        plan.model_copy(update={"groups": (plan.groups[0], plan.groups[1]._replace(entry="9-0"))}),
        plan.model_copy(update={"mode": Mode.ON_POLICY}),
        plan.model_copy(update={"chain": "x"}),
    ]
    assert len({plan.after, *(other.after for other in others)}) == 5
    assert PlanRecord.model_validate_json(plan.encode()) == plan
