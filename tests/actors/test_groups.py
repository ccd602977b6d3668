"""From what engine and rewards give to a group: each response that was asked for is in it, or missing for a reason."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from group_script import FATES, ORDER, REASONS, GroupScript
from hypothesis import given
from hypothesis import strategies as st

from isentrope.actors.decisions import MAX_FAILURES
from isentrope.actors.groups import TooFewResponsesError
from isentrope.errors import RewardError, UnreachableError
from isentrope.rollout.rewards.functions import Score
from isentrope.rollout.wire.codec import encode_group
from isentrope.rollout.wire.types import EvalOrder, Group, Int32, MissingReason, WorkOrder, version_of


def scripted(*fates: str, fails: bool = False, greedy: str = "") -> GroupScript:
    return GroupScript(dict(enumerate(fates)), fails, greedy=greedy)


def made(script: GroupScript, order: WorkOrder | EvalOrder = ORDER, **sampling: Any) -> Group:
    return asyncio.run(script.maker(**sampling).score(script.generated(order), "a1"))


@given(st.lists(st.sampled_from(FATES), min_size=1, max_size=8), st.integers(1, 9))
def test_healthy_responses_make_a_group_and_the_others_are_missing_for_their_reason(
    fates: list[str], min_group: int
) -> None:
    script, lost = scripted(*fates), {place: REASONS[fate] for place, fate in enumerate(fates) if fate in REASONS}
    found = [place for place in range(len(fates)) if place not in lost]
    if len(found) < min(min_group, len(fates)):
        with pytest.raises(TooFewResponsesError) as caught:
            made(script, min_group=min_group)
        counts = Counter(lost.values())
        engine_alone = len(fates) - counts[MissingReason.ENGINE] < min(min_group, len(fates))
        assert (
            caught.value.reason is MissingReason.ENGINE
            if engine_alone
            else counts[caught.value.reason] == max(counts.values())
        )
        return
    group = made(script, min_group=min_group)
    assert [response.tokens[0] for response in group.responses] == found == [r.seed for r in group.responses]
    assert {each.index: each.reason for each in group.missing} == lost
    lengths = [0 if sample is None else len(sample.tokens) for sample in script.samples()]
    assert all(each.tokens == lengths[each.index] for each in group.missing)
    assert all(call == [p for p, fate in enumerate(fates) if fate != "engine"] for call in script.calls)
    late = {place for place in found if fates[place] == "slow reward"}
    assert [r.reward_parts["call"] for r in group.responses] == [2 if place in late else 1 for place in found]
    assert len(script.calls) == (3 if "reward" in fates else 2 if late else 1)


@given(st.lists(st.sampled_from(FATES), min_size=3, max_size=8), st.sampled_from(FATES))
def test_the_greedy_response_gives_its_reward_and_changes_nothing_else(fates: list[str], greedy: str) -> None:
    plain = made(scripted(*fates, "good", "good"))
    script = scripted(*fates, "good", "good", greedy=greedy)
    if greedy in ("engine", "reward"):
        with pytest.raises(TooFewResponsesError) as caught:
            made(script)
        assert (caught.value.missing[-1].index, caught.value.missing[-1].reason) == (len(script.fates), REASONS[greedy])
        return
    group = made(script)
    assert group.greedy_reward == float(len(script.fates) % 3 == 0) and plain.greedy_reward is None
    assert encode_group(_timeless(replace(group, greedy_reward=None))) == encode_group(_timeless(plain))
    order = EvalOrder("heldout", 0, version_of(1, 0), len(script.fates), "0-0")
    assert made(script, order).greedy_reward is None


@given(
    st.lists(st.sampled_from(FATES), min_size=3, max_size=8),
    st.sampled_from(["", "good"]),
    st.sampled_from(["good", "slow reward", "reward"]),
)
def test_a_demonstration_is_scored_and_changes_nothing_else(fates: list[str], greedy: str, shown: str) -> None:
    script = replace(scripted(*fates, "good", "good", greedy=greedy), shown=shown)
    if shown == "reward":
        with pytest.raises(TooFewResponsesError) as caught:
            made(script)
        assert caught.value.missing[-1].reason is MissingReason.REWARD
        return
    group, plain = made(script), made(scripted(*fates, "good", "good", greedy=greedy))
    (demonstration,) = group.demonstrations
    name = len(script.fates) + 1
    assert demonstration.tokens[0] == name and demonstration.reward == float(name % 3 == 0)
    assert demonstration.answer == str(name % 4) and group.greedy_reward == plain.greedy_reward
    assert encode_group(_timeless(replace(group, demonstrations=()))) == encode_group(_timeless(plain))


def _timeless(group: Group) -> Group:
    """The group without what depends on when it was made, and by which call of the reward."""
    return replace(group, seconds={}, responses=tuple(replace(each, reward_parts={}) for each in group.responses))


def test_a_reward_that_fails_as_a_whole_is_called_three_times_and_gives_no_group() -> None:
    script = scripted(*["good"] * 4, fails=True)
    with pytest.raises(TooFewResponsesError) as caught:
        made(script)
    assert caught.value.reason is MissingReason.REWARD and len(script.calls) == 3
    assert caught.value.what == "4 of 4 responses failed (4 by reward): raised ValueError"


def test_steps_that_the_data_knows_are_those_of_the_group_unless_the_reward_gives_some(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The whole text of a response is its name, which all of its tokens share; those of 0 and 1 are known."""
    script = scripted("good", "good", "good", "good")
    script.known = {"0": True, "1": False, "3": True}
    given_by_reward = GroupScript._outcome

    def outcome(own: GroupScript, name: int) -> Any:
        found = given_by_reward(own, name)
        return replace(found, steps=()) if name == 3 and isinstance(found, Score) else found

    monkeypatch.setattr(GroupScript, "_outcome", outcome)
    steps = [each.steps for each in made(script).responses]
    assert all(each is not None for each in steps)
    assert [each.correct.tolist() for each in steps if each is not None] == [[True], [False], [], []]
    assert [each.start.tolist() for each in steps if each is not None] == [[0], [0], [], []]


def test_only_what_is_trained_is_sampled_among_the_likeliest_and_its_records_tell_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    script, asked = scripted("good", "good", greedy="good"), list[tuple[float, float, int]]()

    async def generate(prompt: Int32, seeds: Sequence[int], **given: Any) -> list[Any]:
        asked.append((given["temperature"], given["top_p"], given["top_k"]))
        return list(script.samples()[: len(seeds)])

    monkeypatch.setattr(script, "generate", generate, raising=False)
    for name in ("train", "eval"):
        monkeypatch.setattr(script, name, lambda *_: None, raising=False)
    monkeypatch.setattr("isentrope.actors.groups.tokenize", lambda *_, **__: script.generated().prompt)
    maker = script.maker(top_k=5, top_p=0.9)
    for order in (ORDER, EvalOrder("heldout", 0, version_of(1, 0), 2, "0-0")):
        asyncio.run(maker.generate(order))
    assert asked == [(1.0, 0.9, 5), (0.0, 1.0, 0), (1.0, 1.0, 0)]
    masks = [each.sampling_mask for each in made(script, top_k=5).responses]
    assert [None if mask is None else mask.ids.tolist() for mask in masks] == [
        each.tokens.tolist() for each in made(script).responses
    ]


def test_an_evaluation_needs_one_response() -> None:
    order = EvalOrder("heldout", 0, version_of(1, 0), 4, "0-0")
    assert len(made(scripted("good", "engine", "reward", "reward"), order, min_group=4).responses) == 1


def test_a_reward_that_fails_too_often_ends_the_actor() -> None:
    script = scripted("good", fails=True)
    maker = script.maker()

    async def score() -> None:
        for _ in range(MAX_FAILURES):
            try:
                await maker.score(script.generated(), "a1")
            except TooFewResponsesError:
                continue

    with pytest.raises(RewardError, match="ValueError"):
        asyncio.run(score())
    assert len(script.calls) == MAX_FAILURES + 1


def test_an_engine_that_fails_too_many_requests_ends_the_actor(monkeypatch: pytest.MonkeyPatch) -> None:
    script = scripted("engine", "good")
    maker = script.maker()

    async def generate(
        prompt_ids: Int32,
        seeds: Sequence[int],
        *,
        max_tokens: int,
        temperature: float,
        stop: Sequence[str],
        top_p: float,
        top_k: int,
    ) -> list[Any]:
        return list(script.samples())

    monkeypatch.setattr(script, "generate", generate, raising=False)
    monkeypatch.setattr(script, "train", lambda seq: None, raising=False)
    monkeypatch.setattr("isentrope.actors.groups.tokenize", lambda *_, **__: script.generated().prompt)

    async def forever() -> None:
        for calls in range(10 * MAX_FAILURES):
            assert calls <= 2 * MAX_FAILURES, "half of its responses fail"
            await maker.generate(ORDER)

    with pytest.raises(UnreachableError, match="too many requests"):
        asyncio.run(forever())
