"""The ragged rows of a batch, and that packed and padded form are two views of the same tokens."""

from dataclasses import replace
from random import Random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from isentrope.kernels.plain import Moments
from isentrope.learner.intake.packing import make_batch, pack
from isentrope.learner.intake.ragged import RaggedBatch, make_ragged, starts_of
from isentrope.learner.objective.batch import Batch
from isentrope.rollout.rewards.correctness import Correctness
from isentrope.rollout.wire.types import Demonstration, Finish, Group, Response, SamplingMask, Steps, version_of

LAG = 2
few = settings(max_examples=40)


RULE = Correctness("reward", 0.5)


def response(tokens: list[int], *, version: int = 1 << 20, reward: float = 0.0, answer: str = "") -> Response:
    count = len(tokens)
    return Response(
        tokens=np.array(tokens, np.int32),
        logp_rollout=-np.arange(1, count + 1, dtype=np.float32),
        mask=np.ones(count, np.bool_),
        span_start=np.array([0], np.int32),
        span_version=np.array([version], np.int64),
        finish=Finish.STOP,
        reward=reward,
        seed=0,
        answer=answer,
    )


def group(seq: int, prompt: list[int], *responses: Response, source: str = "train") -> Group:
    return Group(seq, 0, "a", np.array(prompt, np.int32), responses, 1.0, source=source)


@st.composite
def groups(draw: st.DrawFn) -> list[Group]:
    ids = st.lists(st.integers(1, 99), min_size=1, max_size=7)
    seqs = draw(st.lists(st.integers(0, 50), min_size=1, max_size=5, unique=True))
    size = draw(st.integers(1, 4))
    return [group(seq, draw(ids), *(response(draw(ids)) for _ in range(size))) for seq in seqs]


def ragged_of(found: list[Group], number: int = 0) -> RaggedBatch:
    return make_ragged(found, number=number, token_max_lag=LAG, correctness=RULE)


@given(groups(), st.data())
def test_demonstrations_are_rows_behind_the_responses_and_never_old(found: list[Group], data: st.DataObject) -> None:
    ids = st.lists(st.integers(1, 99), min_size=1, max_size=7)
    shown = [
        replace(
            group,
            demonstrations=tuple(
                Demonstration(np.array(tokens, np.int32), 1.0, {}, "42")
                for tokens in data.draw(st.lists(ids, max_size=1))
            ),
        )
        for group in found
    ]
    made = make_ragged(shown, number=9, token_max_lag=LAG, correctness=RULE, demonstrations=True)
    plain = make_ragged(found, number=9, token_max_lag=LAG, correctness=RULE)
    assert made.demonstration is not None and plain.demonstration is None
    rows = np.flatnonzero(np.add.reduceat(made.demonstration, starts_of(made.length)))
    others = np.setdiff1d(np.arange(len(made.length)), rows)
    assert [tokens_of(made, row) for row in rows] == [
        each.tokens.tolist() for group in sorted(shown, key=lambda group: group.seq) for each in group.demonstrations
    ]
    assert made.mask[made.demonstration].all() and not made.lag[made.demonstration].any()
    assert made.reward[rows].tolist() == [1.0] * len(rows) and made.index[rows].tolist() == [
        len(group.responses) for group in sorted(shown, key=lambda group: group.seq) if group.demonstrations
    ]
    left = made.take(others.tolist())
    for name in ("tokens", "reward", "length", "mask", "lag", "logp_rollout", "seq", "index", "correct"):
        assert np.array_equal(getattr(left, name), getattr(plain, name)), name
    assert make_ragged(shown, number=9, token_max_lag=LAG, correctness=RULE).nbytes == plain.nbytes, "left out"
    again = RaggedBatch.from_bytes(made.for_updates(()).to_bytes())
    assert again.demonstration is not None and np.array_equal(again.demonstration, made.demonstration)


def batch_of(ragged: RaggedBatch, dtype: torch.dtype = torch.float32) -> Batch:
    return make_batch(ragged, Moments(*torch.zeros(4, *ragged.shape)), seed=0, dtype=dtype)


def tokens_of(ragged: RaggedBatch, row: int) -> list[int]:
    start = starts_of(ragged.length)[row]
    return ragged.tokens[start : start + ragged.length[row]].tolist()


def prompt_of(ragged: RaggedBatch, row: int) -> list[int]:
    group = ragged.group[row]
    start = starts_of(ragged.prompt_length)[group]
    return ragged.prompt[start : start + ragged.prompt_length[group]].tolist()


@few
@given(groups(), st.randoms(use_true_random=False))
def test_columns_do_not_depend_on_the_order_of_arrival(found: list[Group], random: Random) -> None:
    mixed = list(found)
    random.shuffle(mixed)
    assert ragged_of(mixed).to_bytes() == ragged_of(found).to_bytes()


@few
@given(groups())
def test_columns_survive_the_way_to_the_other_ranks(found: list[Group]) -> None:
    ragged = ragged_of(found, number=3)
    back = RaggedBatch.from_bytes(ragged.to_bytes())
    assert back.to_bytes() == ragged.to_bytes()
    assert back.logp_rollout.dtype == np.float32
    assert back.number == 3 and back.source_names == ragged.source_names


@few
@given(groups(), st.data())
def test_a_share_is_packed_and_padded_like_its_rows_of_the_whole_batch(found: list[Group], data: st.DataObject) -> None:
    whole = ragged_of(found)
    rows = data.draw(st.lists(st.integers(0, len(whole.length) - 1), unique=True, min_size=1).map(sorted))
    share = RaggedBatch.from_bytes(whole.take(rows).to_bytes())
    ours, theirs = pack(whole, rows), pack(share, range(len(rows)))
    names = ("ids", "position", "starts", "source", "target", "slot")
    assert all(torch.equal(getattr(ours, name), getattr(theirs, name)) for name in names)
    assert ours.longest == theirs.longest
    expected, got = batch_of(whole).take(torch.tensor(rows)), batch_of(share)
    for name in ("seq", "index", "reward", "length", "answer", "mask", "lag", "logp_rollout", "valid"):
        assert torch.equal(getattr(expected, name), getattr(got, name))
    assert [whole.group[row] for row in rows] == [np.unique(whole.group[rows])[place] for place in share.group]


@few
@given(groups(), st.data())
def test_a_token_keeps_those_it_was_chosen_from_on_every_way(found: list[Group], data: st.DataObject) -> None:
    """Some responses, and some tokens of the others, are without."""
    others = st.none() | st.lists(st.none() | st.sets(st.integers(0, 99), max_size=4), min_size=7, max_size=7)
    known: dict[tuple[int, int], list[list[int]]] = {}

    def masked(seq: int, place: int, given: Response) -> Response:
        tokens, drawn = given.tokens.tolist(), data.draw(others)
        if drawn is None:
            known[seq, place] = [[] for _ in tokens]
            return given
        sets = [[] if extra is None else sorted({t, *extra}) for t, extra in zip(tokens, drawn, strict=False)]
        known[seq, place] = sets
        ids = np.array([each for ids in sets for each in ids], np.int32)
        return replace(given, sampling_mask=SamplingMask(ids, np.cumsum([0, *map(len, sets)]).astype(np.int32)))

    found = [
        replace(each, responses=tuple(masked(each.seq, place, given) for place, given in enumerate(each.responses)))
        for each in found
    ]
    whole = RaggedBatch.from_bytes(ragged_of(found).to_bytes())
    rows = data.draw(st.lists(st.integers(0, len(whole.length) - 1), unique=True, min_size=1).map(sorted))
    for ragged, places in ((whole, rows[::-1]), (whole.take(rows), list(range(len(rows))))):
        expected = [each for row in places for each in known[int(ragged.seq[row]), int(ragged.index[row])]]
        kept = pack(ragged, places).kept
        if kept is None:
            assert all(each.sampling_mask is None for group in found for each in group.responses)
        else:
            assert [[each for each in row if each >= 0] for row in kept.tolist()] == expected
    assert pack(whole, ()).kept is None


def test_values_of_reward_functions_are_columns_in_the_order_of_their_weights() -> None:
    given = [replace(response([1, 2]), reward_parts=parts) for parts in ({"a": 1.0, "b": 2.0, "b.x": 7.0}, {"b": 3.0})]
    ragged = make_ragged(
        [group(0, [1], *given)], number=0, token_max_lag=LAG, correctness=RULE, functions={"b": 0.5, "a": 2.0}
    )
    back = RaggedBatch.from_bytes(ragged.to_bytes())
    assert back.part_weights == (0.5, 2.0)
    np.testing.assert_array_equal(back.parts, [[2.0, 1.0], [3.0, np.nan]])
    np.testing.assert_array_equal(batch_of(back.take([1])).parts, [[3.0, np.nan]])
    assert ragged_of([group(0, [1], *given)]).parts is None


def test_the_reward_of_a_greedy_response_is_that_of_its_group() -> None:
    two = [replace(group(seq, [1], response([1, 2]), response([3])), greedy_reward=seq / 4) for seq in (1, 2)]
    np.testing.assert_array_equal(batch_of(ragged_of(two)).greedy_reward, [0.25, 0.25, 0.5, 0.5])
    assert ragged_of([two[0], replace(two[1], greedy_reward=None)]).greedy_reward is None


def test_tokens_of_correct_steps_are_a_column_where_the_reward_gives_steps() -> None:
    steps = Steps(np.array([0, 2], np.int32), np.array([2, 4], np.int32), np.array([False, True]))
    plain = response([5, 6])
    ragged = ragged_of([group(0, [1], replace(response([1, 2, 3, 4]), steps=steps), plain)])
    np.testing.assert_array_equal(ragged.step_correct, [False, False, True, True, False, False])
    taken = batch_of(RaggedBatch.from_bytes(ragged.take([0]).to_bytes())).step_correct
    assert taken is not None and taken.tolist() == [[False, False, True, True]]
    assert ragged_of([group(0, [1], plain)]).step_correct is None


@few
@given(groups())
def test_columns_hold_every_response_of_every_group_by_seq(found: list[Group]) -> None:
    ragged = ragged_of(found)
    expected = [
        (owner.seq, place, list(answer.tokens))
        for owner in sorted(found, key=lambda owner: owner.seq)
        for place, answer in enumerate(owner.responses)
    ]
    got = [(int(ragged.seq[row]), int(ragged.index[row]), tokens_of(ragged, row)) for row in range(len(ragged.seq))]
    assert got == expected
    batch = batch_of(ragged)
    assert torch.equal(batch.valid.sum(1), batch.length)
    assert torch.equal(batch.logp_rollout[batch.valid], torch.from_numpy(ragged.logp_rollout))
    assert torch.equal(batch.lag[batch.valid], torch.from_numpy(ragged.lag))
    assert torch.equal(batch.mask[batch.valid], torch.from_numpy(ragged.mask))
    for padding in (batch.logp_rollout, batch.lag, batch.mask):
        assert not padding[~batch.valid].any()


@few
@given(groups(), st.data())
def test_packing_and_padding_are_inverse(found: list[Group], data: st.DataObject) -> None:
    ragged = ragged_of(found)
    rows = data.draw(st.lists(st.integers(0, len(ragged.seq) - 1), unique=True))
    packed = pack(ragged, rows)
    values = torch.arange(1.0, len(packed.target) + 1, dtype=torch.float64)
    padded = packed.to_padded(values)
    assert padded.shape == (len(rows), ragged.shape[1])
    assert torch.equal(packed.to_packed(padded), values)
    assert torch.equal(padded != 0, batch_of(ragged).valid[rows])


@few
@given(groups(), st.data())
def test_every_target_is_predicted_from_its_own_prompt_and_the_tokens_before_it(
    found: list[Group], data: st.DataObject
) -> None:
    ragged = ragged_of(found)
    rows = data.draw(st.lists(st.integers(0, len(ragged.seq) - 1), unique=True, min_size=1))
    packed = pack(ragged, rows)
    row_of = torch.bucketize(packed.source, packed.starts[1:].long(), right=True)
    for source, target, slot, row in zip(packed.source, packed.target, packed.slot, row_of, strict=True):
        index = rows[int(row)]
        prompt, tokens = prompt_of(ragged, index), tokens_of(ragged, index)
        place = int(slot) - int(row) * ragged.shape[1]
        context = packed.ids[int(packed.starts[int(row)]) : int(source) + 1].tolist()
        assert context == prompt + tokens[:place]
        assert int(target) == tokens[place]
        assert packed.position[int(source)] == len(context) - 1


@few
@given(groups(), st.data())
def test_the_rectangle_holds_the_packed_tokens(found: list[Group], data: st.DataObject) -> None:
    ragged = ragged_of(found)
    rows = data.draw(st.lists(st.integers(0, len(ragged.seq) - 1), unique=True))
    packed = pack(ragged, rows)
    ids, cell = packed.rectangle()
    assert torch.equal(ids.reshape(-1)[cell], packed.ids)
    assert torch.equal(cell % ids.shape[1], packed.position)
    assert int(ids.count_nonzero()) == int(packed.ids.count_nonzero())


@few
@given(groups())
def test_packed_length_is_what_packing_makes(found: list[Group]) -> None:
    ragged = ragged_of(found)
    packed = pack(ragged, range(len(ragged.seq)))
    assert packed.starts.diff().tolist() == ragged.packed_length.tolist()


def test_an_empty_micro_batch_takes_part_and_adds_a_zero_gradient() -> None:
    packed = pack(ragged_of([group(0, [1], response([2, 3]))]), ())
    weight = torch.ones(1, requires_grad=True)
    logits = packed.ids * weight
    loss = packed.to_padded(logits[packed.source]).sum()
    assert loss.item() == 0.0
    assert torch.autograd.grad(loss, weight)[0].item() == 0.0


@few
@given(groups())
def test_the_gradient_of_a_padded_sum_reaches_each_target_once(found: list[Group]) -> None:
    packed = pack(ragged_of(found), (0,))
    values = torch.zeros(len(packed.target), requires_grad=True)
    gradient = torch.autograd.grad(packed.to_padded(values).sum(), values)[0]
    assert torch.equal(gradient, torch.ones_like(values))


@pytest.mark.parametrize(
    ("sampled", "newest", "fresh"),
    [((2, 5), (2, 5), True), ((1, 5), (2, 5), False), ((1, 9), (2, 5), False), ((2, 4), (2, 4), False)],
    ids=["newest", "earlier lineage", "ahead of the batch", "trained since"],
)
def test_only_tokens_of_the_policy_before_the_batch_are_fresh(
    sampled: tuple[int, int], newest: tuple[int, int], fresh: bool
) -> None:
    found = [group(0, [1], response([2, 3], version=version_of(*sampled)))]
    ragged = make_ragged(found, number=5, token_max_lag=LAG, correctness=RULE, newest_version=version_of(*newest))
    assert ragged.fresh is not None and ragged.fresh.tolist() == [fresh, fresh]


def test_tokens_older_than_allowed_are_masked_and_later_ones_are_current() -> None:
    mixed = Response(
        tokens=np.arange(4, dtype=np.int32),
        logp_rollout=np.zeros(4, np.float32),
        mask=np.array([True, True, True, False]),
        span_start=np.array([0, 1, 2], np.int32),
        span_version=np.array([version_of(1, 2), version_of(1, 3), version_of(1, 9)]),
        finish=Finish.LENGTH,
        reward=0.0,
        seed=0,
    )
    ragged = ragged_of([group(0, [1], mixed)], number=5)
    assert ragged.lag.tolist() == [3, 2, 0, 0]
    assert ragged.fresh is not None and not ragged.fresh.any()
    assert ragged.mask.tolist() == [False, True, True, False]
    assert ragged.truncated.tolist() == [True]


def test_answers_are_numbered_and_no_answer_is_minus_one() -> None:
    ragged = ragged_of([group(0, [1], *(response([1], answer=answer) for answer in ("7", "", "5", "7")))])
    assert ragged.answer[1] == -1
    assert ragged.answer[0] == ragged.answer[3] >= 0
    assert ragged.answer[2] >= 0 and ragged.answer[2] != ragged.answer[0]


def test_sources_are_named() -> None:
    ragged = ragged_of([group(0, [1], response([1]), source="b"), group(1, [1], response([1]), source="a")])
    batch = batch_of(ragged)
    assert [batch.source_names[place] for place in batch.source.tolist()] == ["b", "a"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rewards_are_judged_before_they_are_rounded(dtype: torch.dtype) -> None:
    ragged = ragged_of([group(0, [1], response([1], reward=0.5), response([1], reward=0.5 + 1e-12))])
    batch = batch_of(ragged, dtype)
    assert batch.correct is not None and batch.correct.tolist() == [False, True]
    assert batch.reward.dtype == batch.logp_rollout.dtype == dtype
