"""Groups: from an order to its prompt, responses and scores."""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from isentrope.actors.decisions import CallHealth
from isentrope.actors.scoring import Scorer
from isentrope.actors.step_spans import to_tokens
from isentrope.errors import InternalError, IsentropeError, RecordError, RewardError, UnreachableError
from isentrope.rollout.data.demonstrations import demonstration_tokens
from isentrope.rollout.data.prompts import Prompt, Prompts, tokenize
from isentrope.rollout.data.rows import Row
from isentrope.rollout.data.tokenizer import TextTokenizer
from isentrope.rollout.rewards.functions import Outcome, Score, columns_for
from isentrope.rollout.rewards.steps import known_steps
from isentrope.rollout.wire.seeds import eval_seed, sampling_seed
from isentrope.rollout.wire.spec import RunSpec
from isentrope.rollout.wire.types import (
    Demonstration,
    EvalOrder,
    Group,
    Int32,
    Missing,
    MissingReason,
    Response,
    Steps,
    WorkOrder,
)
from isentrope.rollout.wire.validation import Limits, validate_response

if TYPE_CHECKING:
    from isentrope.actors.engine import Engine, Sample

REWARD_TRIES = 3

Order = WorkOrder | EvalOrder

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Generated:
    """Responses that are not scored yet; None: its request failed."""

    order: Order
    prompt: Prompt
    seeds: Sequence[int]
    samples: "Sequence[Sample | None]"
    seconds: float
    greedy: "Sample | None" = None
    """The greedy response, which is scored and not trained; None: it failed, or there is to be none."""
    demonstration: Int32 | None = None
    """Tokens of the prompt's demonstration, which is scored as the responses are; None: there is none."""

    @property
    def tokens(self) -> int:
        """Number of generated tokens."""
        return sum(len(sample.tokens) for sample in (*self.samples, self.greedy) if sample is not None)


class TooFewResponsesError(IsentropeError):
    """A group of which fewer responses have an outcome than it needs. reason: the commonest of the missing ones."""

    def __init__(self, lost: "Mapping[int, Lost]", found: int) -> None:
        counts = Counter(each.missing.reason for each in lost.values())
        self.reason = counts.most_common(1)[0][0]
        self.missing = [each.missing for each in lost.values()]
        example = next(each for each in lost.values() if each.missing.reason is self.reason)
        named = ", ".join(f"{count} by {reason.word}" for reason, count in counts.most_common())
        super().__init__(
            f"{len(lost)} of {len(lost) + found} responses failed ({named}): {example.error.what}",
            where=example.error.where,
        )


@dataclass(frozen=True, slots=True)
class Lost:
    """A missing response, and the error it is missing for."""

    missing: Missing
    error: IsentropeError


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
        self._reward_health = CallHealth()
        self._engine_health = CallHealth()

    async def generate(self, order: Order) -> Generated:
        """Return the responses to an order's prompt.

        Raises:
            PromptTooLongError: the prompt leaves no room for them.
            DataError: the row is not a prompt for this model.
            EngineDiedError: the engine died.
            UnreachableError: its requests fail too often.
        """
        sampling = self._spec.sampling
        row = self._row(order)
        prompt = tokenize(
            row,
            self._tokenizer,
            max_new_tokens=sampling.max_new_tokens,
            max_model_len=self._engine.max_model_len,
        )
        seeds = self._seeds(order)
        started = time.monotonic()
        top_k = sampling.top_k if isinstance(order, WorkOrder) else 0
        requests = [(seeds, self._temperature(order), self._top_p(order), top_k)]
        if isinstance(order, WorkOrder) and self._spec.greedy:
            requests.append(([sampling_seed(self._spec.seed, order.seq, order.attempt, len(seeds))], 0.0, 1.0, 0))
        samples, *others = await asyncio.gather(
            *(
                self._engine.generate(
                    prompt.ids,
                    chosen,
                    max_tokens=sampling.max_new_tokens,
                    temperature=heat,
                    stop=sampling.stop,
                    top_p=top_p,
                    top_k=top_k,
                )
                for chosen, heat, top_p, top_k in requests
            )
        )
        greedy = [sample for other in others for sample in other]
        self._engine_health.record(failed=[*samples, *greedy].count(None), of=len(samples) + len(greedy))
        if self._engine_health.broken:
            raise UnreachableError("the engine fails too many requests", fix="see the log above")
        return Generated(
            order,
            prompt,
            seeds,
            samples,
            time.monotonic() - started,
            greedy=greedy[0] if greedy else None,
            demonstration=self._demonstration(order, row),
        )

    async def score(self, generated: Generated, actor: str) -> Group:
        """Return the finished group, of the responses that have an outcome.

        Raises:
            TooFewResponsesError: they are fewer than `sampling.min_group`, or the greedy one or the reward of the
                demonstration is missing.
            RewardError: rewards fail so often that the run should end.
        """
        started = time.monotonic()
        order, prompt = generated.order, generated.prompt
        greedy = self._greedy_sample(generated)
        samples = {place: sample for place, sample in enumerate(generated.samples) if sample is not None}
        lost = {
            place: Lost(Missing(place, MissingReason.ENGINE), InternalError("the engine did not finish its request"))
            for place in range(len(generated.samples))
            if place not in samples
        }
        self._demand(order, len(samples), lost)
        shown = [] if generated.demonstration is None else [generated.demonstration]
        tokens = [*(sample.tokens for sample in (*samples.values(), *greedy)), *shown]
        outcomes = await self._outcomes(prompt, tokens)
        demonstrations = tuple(self._demonstrated(outcomes.pop(), each, lost) for each in shown)
        greedy_reward = self._own_score(outcomes.pop(), greedy[0].tokens, lost).reward if greedy else None
        responses = []
        for (place, sample), outcome in zip(samples.items(), outcomes, strict=True):
            try:
                responses.append(self._response(sample, outcome, generated.seeds[place], len(prompt.ids)))
            except (RewardError, RecordError) as error:
                reason = MissingReason.REWARD if isinstance(error, RewardError) else MissingReason.RECORD
                lost[place] = Lost(Missing(place, reason, len(sample.tokens)), error)
        self._demand(order, len(responses), lost)
        return Group(
            seq=order.seq if isinstance(order, WorkOrder) else order.index,
            attempt=order.attempt if isinstance(order, WorkOrder) else 0,
            actor=actor,
            prompt=prompt.ids,
            responses=tuple(responses),
            missing=tuple(lost[place].missing for place in sorted(lost)),
            temperature=self._temperature(order),
            source=prompt.source,
            seconds={"generate": generated.seconds, "reward": time.monotonic() - started},
            greedy_reward=greedy_reward,
            demonstrations=demonstrations,
        )

    @property
    def version(self) -> int:
        """Version of the weights that generate now; 0: none, and generating waits."""
        return self._engine.version

    def _row(self, order: Order) -> Row:
        if isinstance(order, WorkOrder):
            return self._prompts.train(order.seq)
        return self._prompts.eval(order.index, order.name)

    def _temperature(self, order: Order) -> float:
        if isinstance(order, WorkOrder):
            return self._spec.sampling.temperature
        return self._spec.eval_temperature(order.name)

    def _top_p(self, order: Order) -> float:
        if isinstance(order, WorkOrder):
            return self._spec.sampling.top_p
        found = self._spec.data.eval_sets.get(order.name)
        return 1.0 if found is None else found.top_p or 1.0

    def _demand(self, order: Order, found: int, lost: Mapping[int, Lost]) -> None:
        """Raise TooFewResponsesError unless an order's `found` responses are enough."""
        sampling = self._spec.sampling
        least = min(sampling.min_group, sampling.group_size) if isinstance(order, WorkOrder) else 1
        if found < least:
            raise TooFewResponsesError(lost, found)

    def _greedy_sample(self, generated: Generated) -> "list[Sample]":
        """Return the greedy response, if there is to be one; TooFewResponsesError: it failed."""
        if not (isinstance(generated.order, WorkOrder) and self._spec.greedy):
            return []
        if generated.greedy is None:
            place = len(generated.samples)
            error = InternalError("the engine did not finish the request of the greedy response")
            raise TooFewResponsesError({place: Lost(Missing(place, MissingReason.ENGINE), error)}, place)
        return [generated.greedy]

    def _demonstration(self, order: Order, row: Row) -> Int32 | None:
        """Return the tokens of the row's demonstration; None: it has none, or the run trains none."""
        if not (isinstance(order, WorkOrder) and self._spec.demonstrations):
            return None
        return demonstration_tokens(row, self._tokenizer, self._spec.sampling.max_new_tokens)

    def _demonstrated(self, outcome: Outcome, tokens: Int32, lost: Mapping[int, Lost]) -> Demonstration:
        """Return a demonstration with its score; TooFewResponsesError: it has none."""
        score = self._own_score(outcome, tokens, lost)
        return Demonstration(tokens, score.reward, score.parts, score.answer)

    def _own_score(self, outcome: Outcome, tokens: Int32, lost: Mapping[int, Lost]) -> Score:
        """Return the score of what a group has beside its responses; TooFewResponsesError: it has none."""
        if isinstance(outcome, RewardError):
            place = self._spec.sampling.group_size
            missing = Lost(Missing(place, MissingReason.REWARD, len(tokens)), outcome)
            raise TooFewResponsesError({**lost, place: missing}, place - len(lost))
        return outcome

    async def _outcomes(self, prompt: Prompt, tokens: Sequence[Int32]) -> list[Outcome]:
        """Return the outcome of each response: its first score in up to three calls, or its last error; with the steps
        that the data knows."""
        ids = [each.tolist() for each in tokens]
        texts = [self._tokenizer.decode(each, skip_special_tokens=True) for each in ids]
        columns = columns_for(prompt.columns, ids)
        outcomes: list[Outcome] = []
        for tries_left in reversed(range(REWARD_TRIES)):
            again: list[Outcome] = []
            try:
                again = await self._scorer.score([prompt.prompt] * len(texts), texts, columns)
            except RewardError as error:
                again = [error] * len(texts)
            failed = [outcome for outcome in again if isinstance(outcome, RewardError)]
            self._reward_health.record(failed=len(failed), of=len(texts))
            both = zip(outcomes or again, again, strict=True)
            outcomes = [first if isinstance(first, Score) else second for first, second in both]
            if not any(isinstance(outcome, RewardError) for outcome in outcomes):
                break
            if self._reward_health.broken:
                raise failed[0]
            logger.warning("%d rewards failed, %d tries left: %s", len(failed), tries_left, failed[0].what)
        return [_with_known_steps(each, text, prompt.steps) for each, text in zip(outcomes, texts, strict=True)]

    def _response(self, sample: "Sample", outcome: Outcome, seed: int, prompt_length: int) -> Response:
        """Return a response that is a valid record; RewardError: it has no score."""
        if isinstance(outcome, RewardError):
            raise outcome
        response = Response(
            tokens=sample.tokens,
            logp_rollout=sample.logp,
            mask=np.ones(len(sample.tokens), np.bool_),
            span_start=sample.span_start,
            span_version=sample.span_version,
            finish=sample.finish,
            reward=outcome.reward,
            seed=seed,
            reward_parts=outcome.parts,
            answer=outcome.answer,
            steps=self._steps(sample, outcome),
            sampling_mask=sample.sampling_mask,
        )
        validate_response(response, prompt_length, Limits(self._spec.vocab_size), f"response of seed {seed}")
        return response

    def _steps(self, sample: "Sample", outcome: Score) -> Steps | None:
        """Return the judged steps by tokens; None: neither the reward gives some nor the data."""
        if outcome.steps is None:
            return None
        ids = sample.tokens.tolist()

        def characters(count: int) -> int:
            return len(self._tokenizer.decode(ids[:count], skip_special_tokens=True))

        return to_tokens(outcome.steps, len(ids), characters)

    def _seeds(self, order: Order) -> list[int]:
        run_seed = self._spec.seed
        if isinstance(order, WorkOrder):
            count = self._spec.sampling.group_size
            return [sampling_seed(run_seed, order.seq, order.attempt, index) for index in range(count)]
        return [eval_seed(run_seed, order.name, order.index, sample) for sample in range(order.samples)]


def _with_known_steps(outcome: Outcome, text: str, known: Mapping[str, bool] | None) -> Outcome:
    """Return the outcome with the steps whose verdict the data holds, unless the reward has given some."""
    if known is None or isinstance(outcome, RewardError) or outcome.steps is not None:
        return outcome
    return replace(outcome, steps=known_steps(text, known))


@dataclass(frozen=True, slots=True)
class Tools:
    """The parts an actor works with, under any id."""

    engine: "Engine"
    maker: GroupMaker
