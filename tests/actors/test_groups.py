"""From what engine and rewards give to a group: each response that was asked for is in it, or missing for a reason."""

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from wire_records import VOCABULARY, make_spec

from isentrope.actors.decisions import MAX_FAILURES
from isentrope.actors.groups import Generated, GroupMaker, TooFewResponsesError
from isentrope.actors.scoring import Scorer
from isentrope.errors import RewardError, UnreachableError
from isentrope.rollout.config import SamplingConfig
from isentrope.rollout.data.prompts import Prompt, Prompts
from isentrope.rollout.data.tokenizer import TextTokenizer
from isentrope.rollout.rewards.functions import Outcome, Score
from isentrope.rollout.wire.types import EvalOrder, Finish, Group, Int32, MissingReason, WorkOrder, version_of

PROMPT = np.array([1, 2], np.int32)
ORDER = WorkOrder(0, 0, 1, 0, 0, "work", "0-0")
FATES = ("good", "good", "good", "engine", "reward", "slow reward", "record", "foreign token")
"""What becomes of a response; a `slow reward` comes with the second call."""
REASONS = {
    "engine": MissingReason.ENGINE,
    "reward": MissingReason.REWARD,
    "record": MissingReason.RECORD,
    "foreign token": MissingReason.RECORD,
}


@dataclass
class _Sample:
    """As the engine gives them; the first token is the place of the response."""

    tokens: Int32
    logp: Any
    span_start: Any = field(default_factory=lambda: np.zeros(1, np.int32))
    span_version: Any = field(default_factory=lambda: np.full(1, version_of(1, 0), np.int64))
    finish: Finish = Finish.STOP


@dataclass
class Script:
    """Engine, scorer and tokenizer of a maker, as far as it sees them."""

    fates: Sequence[str]
    fails: bool = False
    """Every call of the reward fails as a whole."""
    calls: list[list[int]] = field(default_factory=list)
    """Places of the responses that were scored, by call."""
    max_model_len: int = 100
    version: int = version_of(1, 0)

    def maker(self, **sampling: Any) -> GroupMaker:
        spec = make_spec("run", sampling=SamplingConfig(group_size=len(self.fates), max_new_tokens=9, **sampling))
        parts: dict[str, Any] = {
            "engine": self,
            "scorer": cast(Scorer, self),
            "prompts": cast(Prompts, self),
            "tokenizer": cast(TextTokenizer, self),
        }
        return GroupMaker(spec, **parts)

    def generated(self, order: WorkOrder | EvalOrder = ORDER) -> Generated:
        seeds = range(len(self.fates))
        return Generated(order, Prompt("p", PROMPT, {}, "train"), seeds, list(map(self._sample, seeds)), 0.0)

    def decode(self, ids: list[int], *, skip_special_tokens: bool) -> str:
        return str(ids[0])

    async def score(
        self, prompts: Sequence[str], completions: Sequence[str], columns: Mapping[str, Sequence[object]]
    ) -> list[Outcome]:
        self.calls.append(list(map(int, completions)))
        if self.fails:
            raise RewardError("raised ValueError")
        return [self._outcome(place) for place in self.calls[-1]]

    def _sample(self, place: int) -> Any:
        fate = self.fates[place]
        tokens = np.array([place, VOCABULARY if fate == "foreign token" else 3], np.int32)
        logp = np.full(2, np.nan if fate == "record" else -1.0, np.float32)
        return None if fate == "engine" else _Sample(tokens, logp)

    def _outcome(self, place: int) -> Outcome:
        fate = self.fates[place]
        if fate == "reward" or (fate == "slow reward" and len(self.calls) == 1):
            return RewardError("returned nan")
        return Score(float(10 * len(self.calls) + place), {}, "")


def made(script: Script, order: WorkOrder | EvalOrder = ORDER, **sampling: Any) -> Group:
    return asyncio.run(script.maker(**sampling).score(script.generated(order), "a1"))


@given(st.lists(st.sampled_from(FATES), min_size=1, max_size=8), st.integers(1, 9))
def test_healthy_responses_make_a_group_and_the_others_are_missing_for_their_reason(
    fates: list[str], min_group: int
) -> None:
    script, lost = Script(fates), {place: REASONS[fate] for place, fate in enumerate(fates) if fate in REASONS}
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
    assert all(each.tokens == (0 if each.reason is MissingReason.ENGINE else 2) for each in group.missing)
    assert all(call == [p for p, fate in enumerate(fates) if fate != "engine"] for call in script.calls)
    late = {place for place in found if fates[place] == "slow reward"}
    assert [r.reward for r in group.responses] == [(20 if place in late else 10) + place for place in found]
    assert len(script.calls) == (3 if "reward" in fates else 2 if late else 1)


def test_a_reward_that_fails_as_a_whole_is_called_three_times_and_gives_no_group() -> None:
    script = Script(["good"] * 4, fails=True)
    with pytest.raises(TooFewResponsesError) as caught:
        made(script)
    assert caught.value.reason is MissingReason.REWARD and len(script.calls) == 3
    assert caught.value.what == "4 of 4 responses failed (4 by reward): raised ValueError"


def test_an_evaluation_needs_one_response() -> None:
    order = EvalOrder("heldout", 0, version_of(1, 0), 4, "0-0")
    assert len(made(Script(["good", "engine", "reward", "reward"]), order, min_group=4).responses) == 1


def test_a_reward_that_fails_too_often_ends_the_actor() -> None:
    script = Script(["good"], fails=True)
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
    script = Script(["engine", "good"])
    maker = script.maker()

    async def generate(
        prompt_ids: Int32, seeds: Sequence[int], *, max_tokens: int, temperature: float, stop: Sequence[str]
    ) -> list[Any]:
        return list(script.generated().samples)

    monkeypatch.setattr(script, "generate", generate, raising=False)
    monkeypatch.setattr(script, "train", lambda seq: None, raising=False)
    monkeypatch.setattr("isentrope.actors.groups.tokenize", lambda *_, **__: script.generated().prompt)

    async def forever() -> None:
        for calls in range(10 * MAX_FAILURES):
            assert calls <= 2 * MAX_FAILURES, "half of its responses fail"
            await maker.generate(ORDER)

    with pytest.raises(UnreachableError, match="too many requests"):
        asyncio.run(forever())
