"""A run in which nothing but retirement happens ends, for every reason, with the commonest one and an example."""

from collections import Counter
from collections.abc import Iterator

import pytest
from feeding import P, Run, assert_exactly_once, finish, running
from hypothesis import given
from hypothesis import strategies as st
from waits import wait_until

from isentrope.errors import DataError, InternalError, IsentropeError
from isentrope.learner.intake.admission import AdmissionRules
from isentrope.learner.intake.retirement import (
    FAILURES,
    MAX_BATCHES,
    MIN_PASS_BATCHES,
    LengthCounts,
    Retired,
    RetirementLimits,
    Retirements,
    length_bucket,
)
from isentrope.rollout.wire.types import Missing, MissingReason

LIMITS = RetirementLimits(between_batches=30, failed=9)
REASONS = (*sorted(FAILURES), "stale", "none_correct", "nonfinite")


@given(st.lists(st.sampled_from([*REASONS, "came in", "came in", "trained"]), max_size=120))
def test_a_run_ends_after_so_many_failures_without_a_whole_group_or_retirements_without_a_batch(
    story: list[str],
) -> None:
    retirements, failed, since = Retirements(LIMITS), list[str](), list[str]()
    for seq, event in enumerate(story):
        if event == "came in":
            retirements.came_in()
            failed.clear()
        elif event == "trained":
            retirements.restart()
            failed.clear()
            since.clear()
        else:
            retirements.retired(Retired(seq, event, f"detail of {seq}"))
            since.append(event)
            failed += [event] if event in FAILURES else []
        error, ended = retirements.error(), len(failed) >= LIMITS.failed or len(since) >= LIMITS.between_batches
        assert (error is not None) == ended
        if error is not None:
            counts = Counter(failed if len(failed) >= LIMITS.failed else since)
            reason = error.what.rpartition(": ")[2]
            assert counts[reason] == max(counts.values())
            assert ("of all:" if len(counts) == 1 else f"of {counts[reason]} of them:") in error.what
            example = max(seq for seq, event in enumerate(story[: seq + 1]) if event == reason)
            assert error.where == f"group {example}: detail of {example}"
            assert error.exit_code == (65 if reason in ("too_long", "reward", "environment", "none_correct") else 70)
            return


@pytest.mark.parametrize("actors", [["a1"], ["a1", "a2\x1b", "a3"], ["a1", *"bcdefg"]])
def test_the_error_names_the_actors_that_most_of_these_groups_came_from(actors: list[str]) -> None:
    retirements = Retirements(LIMITS)
    retirements.retired(Retired(0, "reward", "no number", "of the batch before"))
    retirements.restart()
    for seq in range(LIMITS.failed):
        retirements.retired(Retired(seq, "reward", "no number", actors[seq] if seq < len(actors) else "a1"))
    error = retirements.error()
    assert error is not None and error.where.isprintable()
    start, _, named = error.where.partition("; those since the last batch are by ")
    assert start == f"group {LIMITS.failed - 1}: no number"
    assert named.startswith(f"a1 ({LIMITS.failed + 1 - len(actors)})")
    assert named.count("(1)") == min(len(actors) - 1, 2) and ("4 more" in named) == (len(actors) == 7)


@pytest.mark.parametrize(
    ("rows", "failed"), [(None, 20 * P), (3, 2 * P), (50, 50), (10_000, 20 * P)], ids=["endless", "few", "some", "many"]
)
def test_a_pass_over_the_data_is_enough_unless_it_is_very_short_or_very_long(rows: int | None, failed: int) -> None:
    rules = AdmissionRules(token_max_lag=1, min_kept=0.5, max_replaced=7, data_rows=rows)
    assert (MAX_BATCHES, MIN_PASS_BATCHES) == (20, 2)
    assert rules.retirement_limits(P) == RetirementLimits(between_batches=22 * P + 7, failed=failed)


@given(st.integers(1, 1 << 20))
def test_a_length_is_counted_below_the_next_power_of_two(tokens: int) -> None:
    bucket = length_bucket(tokens)
    assert bucket // 2 < tokens <= bucket and bucket.bit_count() == 1
    counts = LengthCounts()
    counts.add("reward", [tokens, tokens, 0])
    assert counts.copy() == {"reward": {bucket: 2, 0: 1}}


@pytest.fixture
def run(redis_server: str, run_name: str) -> Iterator[Run]:
    with running(redis_server, run_name) as run:
        yield run


@pytest.mark.parametrize(
    ("reason", "kind"), [("too_long", DataError), ("record", InternalError), ("\x1b[2J", InternalError)]
)
def test_orders_that_are_given_up_for_ever_end_the_run(run: Run, reason: str, kind: type[IsentropeError]) -> None:
    learner, actor = run.learner(), run.actor()
    failed = 0
    with pytest.raises(kind) as caught:
        while failed < 100 * P:
            for order in actor.port.take(P, 0.05):
                actor.port.fail(order, reason, "163 tokens\x1b[2J train.jsonl:4" + "!" * 1000)
                failed += 1
            learner.feeder.next_batch(0.0)
    known = reason if reason in FAILURES else "invalid"
    assert caught.value.what.endswith(f"reason of all: {known}") and "train.jsonl:4!" in caught.value.where
    assert "!, by a1; those since the last batch are by a1 (" in caught.value.where
    assert caught.value.where.isprintable()
    status = learner.feeder.status()
    assert set(status.retired) == {known} and 20 * P <= status.issued <= 22 * P + 2 * P


def test_what_a_learner_reads_again_does_not_end_it(redis_server: str, run_name: str) -> None:
    with running(redis_server, run_name, batches=24) as run:
        learner, actor = run.learner(), run.actor()
        while learner.ledger.batches < run.batches - 1:
            for order in actor.take(P):
                actor.port.fail(order, "reward", "no number")
            actor.work(P, learner.version)
            learner.train(learner.next())
        failed = learner.ledger.retired
        limits = AdmissionRules(token_max_lag=run.max_lag, min_kept=0.5).retirement_limits(P)
        assert failed > max(limits.failed, limits.between_batches)
        run.kill(learner)
        after = run.learner()
        assert after.began.retired == {"reward": failed}
        wait_until(lambda: after.port.rounds >= 2, "a whole round of the feeder")
        finish(after, actor, run.batches)
        assert_exactly_once(run, after)


def test_what_failed_is_counted_by_kind_and_length(run: Run) -> None:
    learner, actor = run.learner(), run.actor()
    first, second, *_ = actor.take(P)
    lost = (Missing(0, MissingReason.REWARD, 5), Missing(1, MissingReason.ENGINE))
    actor.port.fail(first, "reward", "no number", lost)
    actor.publish(second, learner.version)
    learner.settle(1)
    learner.retired(reward=1)
    assert learner.feeder.status().failed == {"reward": {8: 1}, "engine": {0: 1}}
    counts = {"retired:reward": 1, "failed:reward": 1, "failed:engine": 1}
    wait_until(lambda: counts.items() <= learner.port.view.counters().items(), "counters for those who watch")
