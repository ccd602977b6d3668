"""Engine and reward of a group maker, scripted: which responses fail, and how."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
from wire_records import VOCABULARY, make_spec

from isentrope.actors.groups import Generated, GroupMaker
from isentrope.actors.scoring import Scorer
from isentrope.errors import RewardError
from isentrope.rollout.config import SamplingConfig
from isentrope.rollout.data.prompts import Prompt, Prompts
from isentrope.rollout.data.tokenizer import TextTokenizer
from isentrope.rollout.rewards.functions import Outcome, Score
from isentrope.rollout.wire.types import EvalOrder, Finish, Int32, MissingReason, SamplingMask, WorkOrder, version_of

LONGEST = 9
PROMPT = np.array([1, 2], np.int32)
ORDER = WorkOrder(0, 0, 1, 0, 0, "work", "0-0")
REASONS = {
    "engine": MissingReason.ENGINE,
    "reward": MissingReason.REWARD,
    "record": MissingReason.RECORD,
    "foreign token": MissingReason.RECORD,
}
FATES = ("good", "good", "good", "slow reward", *REASONS)
"""How a response fares; a `slow reward` comes with the second call."""


@dataclass
class ScriptedSample:
    """A response as the engine gives it; its first token is its name."""

    tokens: Int32
    logp: Any
    span_start: Any = field(default_factory=lambda: np.zeros(1, np.int32))
    span_version: Any = field(default_factory=lambda: np.full(1, version_of(1, 0), np.int64))
    sampling_mask: SamplingMask | None = None

    @property
    def finish(self) -> Finish:
        return Finish.LENGTH if len(self.tokens) == LONGEST else Finish.STOP


@dataclass
class GroupScript:
    """All that a maker sees of engine, scorer and tokenizer. Everything about a response follows from its name."""

    fates: Mapping[int, str]
    """By the response's name, which is below the size of the vocabulary."""
    fails: bool = False
    """Every call of the reward fails as a whole."""
    calls: list[list[int]] = field(default_factory=list)
    """Names of the responses that were scored, by call."""
    max_model_len: int = 100
    version: int = version_of(1, 0)
    greedy: str = ""
    """How the greedy response fares, whose name is the number of the others; empty: there is to be none."""
    shown: str = ""
    """How the demonstration fares, whose name comes after that of the greedy one; empty: there is none."""
    known: Mapping[str, bool] | None = None
    """Steps that the data knows."""

    def maker(self, **sampling: Any) -> GroupMaker:
        sampled = SamplingConfig(group_size=len(self.fates), max_new_tokens=LONGEST, **sampling)
        spec = make_spec("run", sampling=sampled, greedy=bool(self.greedy))
        return GroupMaker(
            spec,
            engine=cast(Any, self),
            scorer=cast(Scorer, self),
            prompts=cast(Prompts, self),
            tokenizer=cast(TextTokenizer, self),
        )

    def generated(self, order: WorkOrder | EvalOrder = ORDER) -> Generated:
        greedy = self._sample(len(self.fates), self.greedy) if self.greedy else None
        shown = self._sample(len(self.fates) + 1, self.shown) if self.shown and isinstance(order, WorkOrder) else None
        prompt = Prompt(PROMPT, "p", {}, "train", self.known)
        samples, tokens = cast(Any, self.samples()), shown.tokens if shown else None
        return Generated(order, prompt, list(self.fates), samples, 0.0, cast(Any, greedy), tokens)

    def samples(self) -> list[ScriptedSample | None]:
        return [self._sample(*each) for each in self.fates.items()]

    def decode(self, ids: list[int], *, skip_special_tokens: bool) -> str:
        return str(ids[0])

    async def score(
        self, prompts: Sequence[str], completions: Sequence[str], columns: Mapping[str, Sequence[object]]
    ) -> list[Outcome]:
        self.calls.append(list(map(int, completions)))
        if self.fails:
            raise RewardError("raised ValueError")
        return [self._outcome(name) for name in self.calls[-1]]

    def _sample(self, name: int, fate: str) -> ScriptedSample | None:
        draw = np.random.default_rng(name)
        tokens = draw.integers(0, VOCABULARY, int(draw.integers(1, LONGEST + 1))).astype(np.int32)
        logp = (-3 * draw.random(len(tokens))).astype(np.float32)
        tokens[0] = name
        if fate == "engine":
            return None
        if fate == "record":
            logp[-1] = np.nan
        if fate == "foreign token":
            tokens = np.append(tokens, np.int32(VOCABULARY))
            logp = np.append(logp, np.float32(-1.0))
        return ScriptedSample(
            tokens, logp, sampling_mask=SamplingMask(tokens, np.arange(len(tokens) + 1, dtype=np.int32))
        )

    def _outcome(self, name: int) -> Outcome:
        fate = self.fates.get(name, self.greedy if name == len(self.fates) else self.shown)
        if fate == "reward" or (fate == "slow reward" and len(self.calls) == 1):
            return RewardError("returned nan")
        parts = {"call": float(len(self.calls)), "third": float(name % 3 == 0), "fifth": float(name % 5 == 0)}
        return Score(float(name % 3 == 0), parts, str(name % 4))
