"""The rules of the buffer, without a broker: which groups are chosen, which are too old, what is known."""

from dataclasses import replace
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wire_records import make_group, make_response, make_spec

from isentrope.learner.intake.admission import AdmissionRules
from isentrope.learner.intake.buffer import Buffer
from isentrope.learner.intake.ledger import Ledger
from isentrope.learner.intake.outcomes import OutcomeRule
from isentrope.learner.intake.retirement import POISON
from isentrope.learner.intake.run_check import Asked, RunCheck
from isentrope.rollout.broker.learner_port import Entry
from isentrope.rollout.config import ModelConfig, SamplingConfig
from isentrope.rollout.rewards.correctness import Correctness
from isentrope.rollout.wire.codec import encode_group
from isentrope.rollout.wire.control import Mode
from isentrope.rollout.wire.types import Missing, MissingReason, Response, version_of

P = 4
LAG = 2
BY_REWARD = OutcomeRule("reward", Correctness("reward", 0.5))
few = settings(max_examples=50)


def entry(
    seq: int,
    *responses: Response,
    version: int = version_of(1, 0),
    name: str = "",
    missing: tuple[Missing, ...] = (),
    actor: str = "a1",
) -> Entry:
    given_ones = {"responses": responses} if responses else {}
    header, payload = encode_group(make_group(seq, version=version, actor=actor, **given_ones, missing=missing))
    return Entry(name or f"{seq}-0", seq, 0, "group", header, payload, actor=actor)


def rewarded(seq: int, *rewards: float) -> Entry:
    return entry(seq, *(make_response(version_of(1, 0), reward=reward) for reward in rewards))


def make_buffer(
    mode: Mode = Mode.ASYNC,
    *,
    cursor: int = 100,
    batches: int = 0,
    min_kept: float = 0.5,
    max_replaced: int = 0,
    outcome: OutcomeRule = BY_REWARD,
    **sampling: int,
) -> Buffer:
    ledger = Ledger()
    ledger.batches = batches
    spec = make_spec("run", prompts_per_batch=P, sampling=SamplingConfig.model_validate({"group_size": 2, **sampling}))
    buffer = Buffer(ledger, spec, 1, AdmissionRules(LAG, min_kept, max_replaced, outcome), mode)
    buffer.cursor = cursor
    buffer.newest_version = version_of(1, batches)
    return buffer


def taken(buffer: Buffer) -> list[int]:
    batch = buffer.take()
    assert batch is not None
    return [group.seq for group in batch.record.groups]


@few
@given(st.lists(st.integers(0, 30), min_size=P, unique=True))
def test_async_takes_the_oldest_of_whatever_is_here(arrived: list[int]) -> None:
    buffer = make_buffer()
    assert all(buffer.add(entry(seq)) for seq in arrived)
    assert taken(buffer) == sorted(arrived)[:P]
    assert buffer.ready == len(arrived) - P


def test_nothing_is_taken_of_an_actor_whose_records_are_refused_but_what_came_before() -> None:
    buffer = make_buffer()
    assert buffer.add(entry(0)) and not buffer.quarantine.reasons
    wrong = [replace(entry(seq), payload=b"x") for seq in range(1, 4)]
    assert all(buffer.add(each) for each in wrong)
    (why,) = buffer.quarantine.told().values()
    assert why.startswith("3 of its records were refused, the last for") and buffer.ledger.reasons == {"invalid": 3}
    assert buffer.ready == 1 and not buffer.quarantine.take_turned_away()
    assert not buffer.add(entry(5)) and not buffer.ledger.known(5)
    assert buffer.quarantine.take_turned_away() and not buffer.quarantine.take_turned_away()
    assert buffer.add(entry(0)), "it is here already"
    assert buffer.add(entry(5, actor="another")) and buffer.ready == 2


def test_a_run_whose_actors_are_all_in_quarantine_ends() -> None:
    buffer = make_buffer(cursor=1000)
    for seq in range(3):
        buffer.add(replace(entry(seq), payload=b"x"))
    turned_away = 0
    while (error := buffer.retirements.error()) is None:
        assert turned_away < 1000 - 3 and not buffer.add(entry(3 + turned_away))
        turned_away += 1
    assert error.what.endswith("quarantine") and buffer.ledger.reasons == {"invalid": 3}


@few
@given(st.randoms(use_true_random=False))
def test_on_policy_batches_do_not_depend_on_the_order_of_arrival(random: Random) -> None:
    buffer = make_buffer(Mode.ON_POLICY, cursor=3 * P)
    arrivals = list(range(3 * P))
    random.shuffle(arrivals)
    batches = []
    for seq in arrivals:
        buffer.add(entry(seq))
        while (batch := buffer.take()) is not None:
            batches.append([group.seq for group in batch.record.groups])
            buffer.put_back()
            buffer.retire(batches[-1], "done")
    assert batches == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]


@few
@given(
    st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=1, max_size=12), st.floats(0, 1), st.integers(0, 6)
)
def test_a_group_is_stale_if_less_than_min_kept_of_its_own_tokens_is_young(
    tokens: list[tuple[int, bool]], min_kept: float, batches: int
) -> None:
    """Versions may be ahead of the batches trained: an abandoned lineage got further."""
    buffer = make_buffer(batches=batches, min_kept=min_kept)
    buffer.newest_version = version_of(1, 6)
    response = make_response(
        0,
        tokens=len(tokens),
        mask=np.array([own for _, own in tokens]),
        span_start=np.arange(len(tokens), dtype=np.int32),
        span_version=np.array([version_of(1, batch) for batch, _ in tokens]),
    )
    buffer.add(entry(0, response, response))
    own = [batch for batch, trainable in tokens if trainable]
    kept = sum(batches - batch <= LAG for batch in own)
    assert buffer.retire_unfit() == (kept < min_kept * len(own))


@few
@given(st.lists(st.tuples(st.integers(0, 7), st.sampled_from("ab")), max_size=30))
def test_every_seq_is_held_once_whatever_comes_again(arrivals: list[tuple[int, str]]) -> None:
    buffer = make_buffer()
    first: dict[int, str] = {}
    for seq, copy in arrivals:
        name = f"{seq}-{copy}"
        assert buffer.add(entry(seq, name=name)) == (first.setdefault(seq, name) == name)
        if buffer.in_hand is None and buffer.take() is not None and copy == "a":
            buffer.trained()
    assert buffer.known_from(0) == set(first)
    if buffer.in_hand is not None:
        buffer.trained()
    assert set(buffer.uncommitted()[0]) <= set(first.values())
    assert buffer.ledger.trained + buffer.ready == len(first)


@pytest.mark.parametrize(
    ("spec", "changes", "word"),
    [
        ({"sampling": {"max_new_tokens": 2}}, {}, "length"),
        ({"model": {"path": "model", "max_model_len": 4}}, {}, "length"),
        ({}, {"temperature": 0.1}, "number"),
    ],
)
def test_a_record_that_does_not_fit_the_run_is_retired_and_not_trained(
    spec: dict[str, Any], changes: dict[str, Any], word: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A record of 60,000 tokens once ended every rank that padded a batch with it, at each start again."""
    sampling = SamplingConfig.model_validate({"group_size": 2, **spec.get("sampling", {})})
    model = ModelConfig.model_validate(spec.get("model", {"path": "model"}))
    facts = make_spec("run", prompts_per_batch=P, sampling=sampling, model=model)
    buffer = Buffer(Ledger(), facts, 1, AdmissionRules(LAG, 0.5), Mode.ASYNC)
    buffer.cursor, buffer.newest_version = 9, version_of(1, 0)
    header, payload = encode_group(make_group(0, **changes))
    assert buffer.add(Entry("0-0", 0, 0, "group", header, payload))
    assert (buffer.ready, buffer.ledger.reasons) == (0, {"invalid": 1})
    assert f"group 0 is invalid: {word} (" in caplog.text


def test_a_record_that_contradicts_its_order_is_retired() -> None:
    asked = Asked(np.array([9], np.int32), "train")
    prompts = RunCheck(1, lambda seq: asked, lambda index, name: asked)
    buffer = Buffer(Ledger(), make_spec("run"), 1, AdmissionRules(LAG, 0.5, check=prompts), Mode.ASYNC)
    buffer.cursor, buffer.newest_version = 9, version_of(1, 0)
    assert buffer.add(entry(0))
    assert (buffer.ready, buffer.ledger.reasons) == (0, {"invalid": 1})


@few
@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=12), st.integers(0, 5))
def test_groups_of_one_outcome_are_replaced_up_to_a_bound(outcomes: list[tuple[bool, bool]], bound: int) -> None:
    buffer = make_buffer(max_replaced=bound)
    for seq, group in enumerate(outcomes):
        buffer.add(rewarded(seq, *map(float, group)))
    same = [group[0] for group in outcomes if group[0] == group[1]][:bound]
    assert buffer.retire_unfit() == len(same)
    expected = {"all_correct": sum(same), "none_correct": len(same) - sum(same)}
    assert buffer.ledger.reasons == {reason: count for reason, count in expected.items() if count}
    assert buffer.ready == len(outcomes) - len(same)


@few
@given(st.lists(st.lists(st.sampled_from([0.0, 0.2, 0.4, 0.9, 1.0]), min_size=2, max_size=2), min_size=1, max_size=12))
def test_only_what_differs_by_the_rule_is_kept_and_what_is_replaced_is_counted(rewards: list[list[float]]) -> None:
    correct = Correctness("reward", 0.5)
    for outcome in (OutcomeRule("reward"), OutcomeRule("reward", correct), OutcomeRule("correct", correct)):
        buffer = make_buffer(max_replaced=100, outcome=outcome)
        for seq, group in enumerate(rewards):
            buffer.add(rewarded(seq, *group))
        outcomes = [{each > 0.5 for each in group} if outcome.by == "correct" else set(group) for group in rewards]
        gone = [group for group, found in zip(rewards, outcomes, strict=True) if len(found) == 1]
        assert buffer.retire_unfit() == len(gone)
        right = sum(each > 0.5 for group in gone for each in group)
        assert buffer.replaced.responses == 2 * len(gone)
        assert buffer.replaced.reward == pytest.approx(sum(map(sum, gone)))
        assert buffer.replaced.correct == (right if outcome.correctness else 0)
        reasons = buffer.ledger.reasons
        assert outcome.correctness is not None or reasons.keys() <= {"same_reward"}
        assert outcome.correctness is None or reasons.get("all_correct", 0) == right / 2


def test_rewards_differ_if_they_differ_in_the_precision_of_training() -> None:
    buffer = make_buffer(max_replaced=2, outcome=OutcomeRule())
    for seq, rewards in enumerate([(0.1 + 0.2, 0.3), (0.3, np.nextafter(np.float32(0.3), np.float32(1)).item())]):
        buffer.add(rewarded(seq, *rewards))
    assert buffer.retire_unfit() == 1 and buffer.ledger.known(0)


def test_every_batch_may_replace_as_many_groups() -> None:
    buffer = make_buffer(max_replaced=2)
    for seq in range(P + 3):  # all right: two are replaced, four make the batch, one is left over
        buffer.add(rewarded(seq, 1.0, 1.0))
    buffer.retire_unfit()
    assert taken(buffer) == [2, 3, 4, 5]
    assert buffer.retire_unfit() == 1 and buffer.ledger.reasons == {"all_correct": 3}


@few
@given(st.randoms(use_true_random=False))
def test_on_policy_batches_of_mixed_groups_do_not_depend_on_the_order_of_arrival(random: Random) -> None:
    outcomes = [(1.0, float(seq % 3 == 0)) for seq in range(12)]  # of 12 groups 8 differ
    buffer = make_buffer(Mode.ON_POLICY, cursor=P, max_replaced=100)
    arrived: set[int] = set()
    while (batch := buffer.take()) is None:
        buffer.cursor = P + buffer.ledger.retired  # admission makes room
        seq = random.choice([seq for seq in range(buffer.cursor) if seq not in arrived])
        arrived.add(seq)
        buffer.add(rewarded(seq, *outcomes[seq]))
        buffer.retire_unfit()
    assert [group.seq for group in batch.record.groups] == [1, 2, 4, 5]
    assert buffer.ledger.reasons == {"all_correct": 2}


def test_a_planned_group_is_trained_again_whatever_its_outcome() -> None:
    first, again = make_buffer(max_replaced=1), make_buffer(max_replaced=1)
    for buffer in (first, again):
        for seq in range(P + 1):
            buffer.add(rewarded(seq, 0.0, 0.0))
    first.retire_unfit()
    batch = first.take()
    assert batch is not None
    assert again.queue_replays({1: batch.record.encode()}) == 1
    assert again.retire_unfit() == 1
    assert taken(again) == [1, 2, 3, 4]


def test_clearing_keeps_only_the_batch_that_is_being_trained() -> None:
    buffer = make_buffer()
    for seq in range(P + 2):
        buffer.add(entry(seq))
    batch = buffer.take()
    buffer.clear()
    assert buffer.in_hand is batch
    assert buffer.known_from(0) == set(range(P))
    assert buffer.ready == 0


def test_replays_come_first_and_are_not_judged_again() -> None:
    first = make_buffer(Mode.ON_POLICY, cursor=2 * P)
    for seq in range(P):
        first.add(entry(seq))
    batch = first.take()
    assert batch is not None
    again = Buffer(Ledger(), make_spec("run", prompts_per_batch=P), 2, AdmissionRules(LAG, 0.5), Mode.ON_POLICY)
    again.cursor, again.newest_version = 2 * P, version_of(2, 0)
    for seq in range(2 * P):
        again.add(entry(seq))
    assert again.queue_replays({1: batch.record.encode(), 3: b"not a record"}) == 1
    assert again.retire_unfit() == 0 and len(again.outdated) == P
    replayed = again.take()
    assert replayed is not None and replayed.replayed and replayed.record == batch.record


def test_a_stored_plan_is_void_if_a_group_of_it_was_generated_again() -> None:
    first, again = make_buffer(), make_buffer()
    for seq in range(P):
        first.add(entry(seq))
        again.add(entry(seq, name=f"{seq}-0" if seq else "later"))
    batch = first.take()
    assert batch is not None
    assert again.queue_replays({1: batch.record.encode()}) == 0
    assert again.ready == P


def test_a_stored_plan_that_is_no_record_is_void() -> None:
    buffer = make_buffer()
    for seq in range(P):
        buffer.add(entry(seq))
    assert buffer.queue_replays({1: b"{}"}) == 0
    assert taken(buffer) == [0, 1, 2, 3]


def test_what_is_out_at_the_end_is_retired_as_surplus() -> None:
    buffer = make_buffer(cursor=P + 3)
    for seq in range(P + 1):
        buffer.add(entry(seq))
    buffer.take()
    buffer.trained()
    buffer.retire_rest()
    assert buffer.ledger.reasons == {"surplus": 3}
    assert buffer.ledger.lwm == P + 3
    assert f"{P}-0" in buffer.uncommitted()[0]


@pytest.mark.parametrize("came", [False, True])
def test_a_requeued_group_that_is_out_at_the_end_is_dead_again(came: bool) -> None:
    buffer = make_buffer(cursor=P + 3)
    buffer.ledger.retire(P, POISON)
    buffer.ledger.requeue(P, f"1-1-00000000.{P}")
    for seq in range(P + came):
        buffer.add(entry(seq))
    buffer.take()
    buffer.trained()
    buffer.retire_rest()
    assert buffer.ledger.reasons == {"poison": 1, "surplus": 2}
    assert buffer.ledger.requeue(P, f"1-1-00000000.{P}"), "it may be carried out when the run goes on"


PRESENT, OTHER = version_of(1, 0), version_of(2, 0)


@pytest.mark.parametrize("mode", list(Mode))
@pytest.mark.parametrize("version", [0, PRESENT, OTHER])
@pytest.mark.parametrize("small", [False, True])
def test_an_order_that_other_weights_gave_up_is_made_again_on_policy(mode: Mode, version: int, small: bool) -> None:
    """`tries` leases that died say nothing of weights, and neither does a prompt that is too long."""
    buffer = make_buffer(mode, group_size=2, min_group=2)
    buffer.newest_version = OTHER
    if small and version:
        missing = (Missing(1, MissingReason.REWARD, 5),)
        came = entry(buffer.cursor - 1, make_response(version), missing=missing)
    else:
        header: dict[str, bytes | int | str] = {"kind": "tombstone"}
        came = Entry("9-0", buffer.cursor - 1, 0, "tombstone", header, b"", "reward", "raised", "a1", version)
    assert buffer.add(came)
    again = mode is Mode.ON_POLICY and version == OTHER
    assert buffer.outdated == [came.id] * again
    assert buffer.ledger.reasons == ({} if again else {"reward": 1})


def test_failed_responses_of_a_group_are_counted_once_however_often_it_is_read() -> None:
    buffer = make_buffer(group_size=2, min_group=1)
    response, lost = make_response(version_of(1, 0)), (Missing(1, MissingReason.REWARD, 5),)
    for name, failed in (("1-0", 1), ("1-0", 1), ("2-0", 2)):  # the last was generated again
        assert buffer.add(entry(0, response, name=name, missing=lost))
        assert buffer.ready == 1 and buffer.failed.counts == {"reward": {8: failed}}
        buffer.clear()


@few
@given(st.integers(1, 8), st.lists(st.sampled_from(MissingReason), max_size=8), st.integers(1, 9))
def test_a_group_with_too_few_responses_is_retired_for_their_commonest_reason(
    found: int, lost: list[MissingReason], min_group: int
) -> None:
    buffer = make_buffer(group_size=found + len(lost), min_group=min_group)
    missing = tuple(Missing(index, reason) for index, reason in enumerate(lost))
    assert buffer.add(entry(0, *[make_response(version_of(1, 0))] * found, missing=missing))
    if found >= min(min_group, found + len(lost)):
        assert buffer.ready == 1 and buffer.ledger.reasons == {}
    else:
        ((reason, count),) = buffer.ledger.reasons.items()
        assert count == 1 and lost.count(MissingReason[reason.upper()]) == max(map(lost.count, MissingReason))


def of_one_outcome_in_turn(outcomes: list[bool], limit: int) -> tuple[list[int], list[int]]:
    """The batch and the replaced groups of a run in which every group is judged when its turn comes."""
    batch, replaced = list[int](), list[int]()
    for seq, same in enumerate(outcomes):
        if len(batch) < P:
            (replaced if same and len(replaced) < limit else batch).append(seq)
    return batch, replaced


@few
@given(st.lists(st.booleans(), min_size=20, max_size=20), st.integers(0, 12), st.randoms(use_true_random=False))
def test_which_groups_an_on_policy_batch_replaces_does_not_depend_on_the_order_of_arrival(
    outcomes: list[bool], limit: int, random: Random
) -> None:
    """Also where more groups have one outcome than may be replaced."""
    buffer = make_buffer(Mode.ON_POLICY, cursor=P, max_replaced=limit)
    out = list(range(P))
    while (batch := buffer.take()) is None:
        seq = out.pop(random.randrange(len(out)))
        buffer.add(rewarded(seq, 1.0, float(outcomes[seq])))
        buffer.retire_unfit()
        out += range(buffer.cursor, P + buffer.ledger.retired)
        buffer.cursor = P + buffer.ledger.retired
    planned, replaced = of_one_outcome_in_turn(outcomes, limit)
    assert [group.seq for group in batch.record.groups] == planned
    assert buffer.ledger.known_from(0) == set(replaced)


def test_what_a_batch_has_replaced_is_remembered_by_its_checkpoint() -> None:
    buffer = make_buffer(Mode.ON_POLICY, max_replaced=2)
    buffer.add(rewarded(0, 1.0, 1.0))
    buffer.retire_unfit()
    again = Buffer(Ledger(buffer.ledger.state()), buffer._spec, 1, buffer._rules, Mode.ON_POLICY)
    again.cursor, again.newest_version = 100, version_of(1, 0)
    for seq in range(1, P + 2):
        again.add(rewarded(seq, 1.0, 1.0))
    again.retire_unfit()
    assert taken(again) == [2, 3, 4, 5]


def test_on_policy_groups_of_other_weights_are_dropped_and_come_again() -> None:
    buffer = make_buffer(Mode.ON_POLICY, cursor=P, batches=1)
    for seq in range(P):
        buffer.add(entry(seq, version=version_of(1, 1 if seq else 0)))
    assert buffer.retire_unfit() == 0 and buffer.outdated == ["0-0"]
    assert buffer.known_from(0) == {1, 2, 3} and buffer.take() is None
    buffer.outdated.clear()
    assert buffer.add(entry(0, version=version_of(1, 1), name="9-0"))
    assert buffer.retire_unfit() == 0 and buffer.outdated == []
    assert taken(buffer) == [0, 1, 2, 3] and buffer.ledger.retired == 0


def test_what_an_on_policy_plan_has_skipped_was_retired_by_the_learner_that_made_it() -> None:
    first = make_buffer(Mode.ON_POLICY, cursor=P + 3, max_replaced=9)
    for seq in range(P + 3):
        first.add(rewarded(seq, 1.0, float(seq < 2)))
    first.retire(first.known_from(0) & {4}, "nonfinite")
    first.retire_unfit()
    batch = first.take()
    assert batch is not None and [group.seq for group in batch.groups] == [2, 3, 5, 6]
    again = Buffer(Ledger(), first._spec, 2, first._rules, Mode.ON_POLICY)
    again.cursor, again.newest_version = P + 3, version_of(2, 0)
    for seq in range(P + 3):
        if seq != 1:  # shed before
            again.add(rewarded(seq, 1.0, float(seq < 2)))
    assert again.queue_replays({1: batch.record.encode()}) == 1
    assert again.ledger.reasons == {"all_correct": 1, "earlier": 2}
    assert again.retire_unfit() == 0 and not again.outdated
    assert taken(again) == [2, 3, 5, 6]


def test_a_batch_that_is_chosen_again_replaces_no_more_groups() -> None:
    buffer = make_buffer(Mode.ON_POLICY, cursor=P + 2, max_replaced=2)
    for seq in range(P + 2):
        buffer.add(rewarded(seq, 1.0, 1.0))
    buffer.retire_unfit()
    assert taken(buffer) == [2, 3, 4, 5]
    buffer.put_back()
    assert buffer.retire_unfit() == 0
    assert taken(buffer) == [2, 3, 4, 5]
