"""Groups: from an order to its prompt, responses and scores."""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from isentrope.actors.decisions import RewardHealth
from isentrope.actors.scoring import Scorer
from isentrope.errors import RewardError
from isentrope.rollout.data.prompts import Prompt, Prompts, tokenize
from isentrope.rollout.data.tokenizer import TextTokenizer
from isentrope.rollout.rewards.functions import Score, columns_for
from isentrope.rollout.wire.seeds import eval_seed, sampling_seed
from isentrope.rollout.wire.spec import RunSpec
from isentrope.rollout.wire.types import EvalOrder, Group, Int32, Response, WorkOrder

if TYPE_CHECKING:
    from isentrope.actors.engine import Engine, Sample

REWARD_TRIES = 3

Order = WorkOrder | EvalOrder

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Generated:
    """Responses that are not scored yet."""

    order: Order
    prompt: Prompt
    seeds: Sequence[int]
    samples: "Sequence[Sample]"
    seconds: float

    @property
    def tokens(self) -> int:
        """Number of generated tokens."""
        return sum(len(sample.tokens) for sample in self.samples)


class GroupMaker:
    """Maker of the groups of one actor."""

    def __init__(
        self, spec: RunSpec, *, engine: "Engine", scorer: Scorer, prompts: Prompts, tokenizer: TextTokenizer
    ) -> None:
        self._spec = spec
        self._engine = engine
        self._scorer = scorer
        self._prompts = prompts
        self._tokenizer = tokenizer
        self._health = RewardHealth()

    async def generate(self, order: Order) -> Generated:
        """Return the responses to an order's prompt.

        Raises:
            PromptTooLongError: the prompt leaves no room for them.
            DataError: the row is not a prompt for this model.
            EngineDiedError: the engine died.
        """
        sampling = self._spec.sampling
        row = self._prompts.train(order.seq) if isinstance(order, WorkOrder) else self._prompts.eval(order.index)
        prompt = tokenize(
            row,
            self._tokenizer,
            max_new_tokens=sampling.max_new_tokens,
            max_model_len=self._engine.max_model_len,
        )
        seeds = self._seeds(order)
        started = time.monotonic()
        samples = await self._engine.generate(
            prompt.ids,
            seeds,
            max_tokens=sampling.max_new_tokens,
            temperature=sampling.temperature,
            stop=sampling.stop,
        )
        return Generated(order, prompt, seeds, samples, time.monotonic() - started)

    async def score(self, generated: Generated, actor: str) -> Group:
        """Return the finished group.

        Raises:
            RewardError: the reward failed three times; see `reward_broken`.
        """
        started = time.monotonic()
        scores = await self._scores(generated.prompt, [sample.tokens for sample in generated.samples])
        order, prompt = generated.order, generated.prompt
        return Group(
            seq=order.seq if isinstance(order, WorkOrder) else order.index,
            attempt=order.attempt if isinstance(order, WorkOrder) else 0,
            actor=actor,
            prompt=prompt.ids,
            responses=tuple(map(_response, generated.samples, scores, generated.seeds)),
            temperature=self._spec.sampling.temperature,
            source=prompt.source,
            seconds={"generate": generated.seconds, "reward": time.monotonic() - started},
        )

    @property
    def version(self) -> int:
        """Version of the weights that generate now; 0: none, and generating waits."""
        return self._engine.version

    @property
    def reward_broken(self) -> bool:
        """True if rewards fail so often that the run should end."""
        return self._health.broken

    async def _scores(self, prompt: Prompt, tokens: Sequence[Int32]) -> list[Score]:
        ids = [each.tolist() for each in tokens]
        texts = [self._tokenizer.decode(each, skip_special_tokens=True) for each in ids]
        columns = columns_for(prompt.columns, ids)
        for tries_left in reversed(range(REWARD_TRIES)):
            try:
                scores = await self._scorer.score([prompt.prompt] * len(texts), texts, columns)
            except RewardError as error:
                self._health.record(failed=True)
                if not tries_left or self._health.broken:
                    raise
                logger.warning("reward failed, %d tries left: %s", tries_left, error.what)
            else:
                self._health.record(failed=False)
                return scores
        raise AssertionError

    def _seeds(self, order: Order) -> list[int]:
        run_seed = self._spec.seed
        if isinstance(order, WorkOrder):
            count = self._spec.sampling.group_size
            return [sampling_seed(run_seed, order.seq, order.attempt, index) for index in range(count)]
        return [eval_seed(run_seed, order.name, order.index, sample) for sample in range(order.samples)]


@dataclass(frozen=True, slots=True)
class Tools:
    """The parts an actor works with, under any id."""

    engine: "Engine"
    maker: GroupMaker


def _response(sample: "Sample", score: Score, seed: int) -> Response:
    return Response(
        tokens=sample.tokens,
        logp_rollout=sample.logp,
        mask=np.ones(len(sample.tokens), np.bool_),
        span_start=sample.span_start,
        span_version=sample.span_version,
        finish=sample.finish,
        reward=score.reward,
        seed=seed,
        reward_parts=score.parts,
        answer=score.answer,
    )
