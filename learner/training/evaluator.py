"""Evaluations on held-out prompts: places the orders, collects the answers, and writes the figures.

Training waits meanwhile: the answers come from the same actors, and an evaluation that ends before training goes on is
the same in every run. Runs on rank 0 alone. The figures are pure functions.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from math import comb
from pathlib import Path
from statistics import fmean

from isentrope.errors import RecordError
from isentrope.learner.intake.feeder import Feeder
from isentrope.learner.intake.ragged import make_ragged
from isentrope.learner.intake.run_check import Asked, RunCheck
from isentrope.learner.records import EvalRow, SampleRow
from isentrope.learner.training.function_rewards import function_rewards
from isentrope.learner.training.journal import Journal
from isentrope.learner.training.rank_group import RankGroup
from isentrope.learner.training.waiting import SLICE_S, Wait
from isentrope.rollout.config import HELD_OUT, DataConfig
from isentrope.rollout.data.demonstrations import demonstration_tokens
from isentrope.rollout.data.prompts import encode, open_prompts
from isentrope.rollout.data.rows import Row
from isentrope.rollout.data.tokenizer import load_tokenizer
from isentrope.rollout.rewards.correctness import Correctness, correctness_of, judge
from isentrope.rollout.wire.plain_text import printable
from isentrope.rollout.wire.spec import RunSpec
from isentrope.rollout.wire.types import EvalOrder, EvalResult, Finish, batch_of

ADMIT_COUNT = 64

SHOWN_PROMPTS = 8
SHOWN_RESPONSES = 2
"""Responses of each shown prompt that are written down."""


logger = logging.getLogger(__name__)


class Evaluator:
    """The held-out prompts of a run, if it has any."""

    def __init__(self, spec: RunSpec, rank_group: RankGroup, timeout_s: float) -> None:
        """Open the prompts; an evaluation fails after `timeout_s` without an answer."""
        self._spec = spec
        self._rank_group = rank_group
        self._timeout_s = timeout_s
        self._prompts = open_prompts(spec.data, run_folder=Path(spec.run_folder), seed=spec.seed)
        self._tokenizer = load_tokenizer(spec.model_dir, chat=spec.model)
        self._check = RunCheck(
            spec.seed,
            self._trained,
            lambda index, name: self._asked(self._prompts.eval(index, name)),
            greedy=spec.greedy,
            masked=spec.sampling.truncates,
        )
        self._correctness = correctness_of(spec.data)
        self._figures = Journal(Path(spec.output_dir), EvalRow)
        self._samples = Journal(Path(spec.output_dir), SampleRow)

    @property
    def data_digest(self) -> str:
        """Digest of all data of the run."""
        return self._prompts.digest

    @property
    def train_rows(self) -> int | None:
        """Training prompts of one pass over the data; None: they never end."""
        return self._prompts.train_count

    @property
    def check(self) -> RunCheck:
        """Comparison of records with the prompts and seeds of the run's orders."""
        return self._check

    def rewind(self, batch: int) -> None:
        """Delete evaluations of later batches; -1: all."""
        self._figures.rewind(batch)
        self._samples.rewind(batch)

    def lacks(self, batch: int) -> bool:
        """Return True if there are held-out prompts, and no line of `eval.jsonl` about the policy after this batch."""
        return bool(self._prompts.eval_count) and all(row.batch != batch for row in self._figures.rows())

    def evaluate(self, version: int, feeder: Feeder) -> list[EvalRow]:
        """Evaluate `version`, which is announced; return its lines of `eval.jsonl`, one for each set of prompts.

        Raises:
            StopAsked: the run is to end; nothing is written, and the answers are not waited for.
        """
        if not self._prompts.eval_count:
            return []
        results = self._collect(version, feeder)
        rows = []
        for name in self._prompts.eval_counts:
            own = [result for result in results if result.name == name]
            chosen = shown(own)
            entropy = self._show(chosen, name) if chosen else None
            rows.append(eval_row(version, own, self._correctness, entropy, name=name))
        for row in rows:
            self._figures.append(row)
        return rows

    def _collect(self, version: int, feeder: Feeder) -> list[EvalResult]:
        wanted = orders(version, self._prompts.eval_counts, self._spec.data)
        feeder.call(lambda port: port.issue_eval(wanted))
        results: list[EvalResult] = []
        what = f"evaluation of version {version}"
        wait = Wait(self._rank_group, self._timeout_s, feeder.why_waiting, what, feeder.stop_asked)
        while len(results) < len(wanted):
            new = feeder.call(lambda port: port.admit_eval(ADMIT_COUNT, SLICE_S))
            if new:
                results += map(self._checked, new)
                wait.progress()
            wait.tick()
        return results

    def _trained(self, seq: int) -> Asked:
        row = self._prompts.train(seq)
        longest = self._spec.sampling.max_new_tokens
        shown = demonstration_tokens(row, self._tokenizer, longest) if self._spec.demonstrations else None
        return self._asked(row)._replace(demonstration=shown)

    def _asked(self, row: Row) -> Asked:
        return Asked(encode(row, self._tokenizer), row.source)

    def _checked(self, result: EvalResult) -> EvalResult:
        """Return a result; without its responses if they do not answer the order."""
        if not result.group.responses:
            return result
        try:
            self._check.answer(result)
        except RecordError as error:
            logger.warning("the answer to held-out prompt %d is invalid: %s", result.group.seq, printable(error.where))
            return replace(result, group=replace(result.group, responses=(), missing=()))
        return result

    def _show(self, results: Sequence[EvalResult], name: str) -> float:
        """Write a few responses down, with the learner's own entropy of each token; return its mean."""
        groups = [result.group for result in results]
        number = batch_of(results[0].version)
        ragged = make_ragged(groups, number=number, token_max_lag=0, correctness=self._correctness)
        entropy = self._rank_group.score(ragged).entropy
        for row in range(len(ragged.length)):
            if ragged.index[row] < SHOWN_RESPONSES:
                group = groups[ragged.group[row]]
                response = group.responses[ragged.index[row]]
                self._samples.append(
                    SampleRow(
                        batch=number,
                        name=name,
                        index=group.seq,
                        prompt=self._tokenizer.decode(group.prompt),
                        tokens=tuple(self._tokenizer.decode([token]) for token in response.tokens),
                        entropy=tuple(entropy[row, : len(response.tokens)].tolist()),
                        reward=response.reward,
                        rewards=dict(response.reward_parts),
                        correct=None if ragged.correct is None else bool(ragged.correct[row]),
                    )
                )
        return float(entropy.sum() / ragged.length.sum())


def orders(version: int, counts: Mapping[str, int], data: DataConfig) -> list[EvalOrder]:
    """Return the orders of one evaluation of `version`, set by set; counts: of prompts, by name."""
    return [
        EvalOrder(name, index, version, each.samples or data.eval_samples, "")
        for name, each in data.eval_sets.items()
        for index in range(counts[name])
    ]


def held_out_score(rows: Sequence[EvalRow]) -> float | None:
    """Return the mean of all sets' pass@1, or of graded rewards; None: no prompt was answered."""
    answered = [row for row in rows if row.prompts]
    return fmean([row.pass_at.get(1, row.reward) for row in answered]) if answered else None


def named_figures(rows: Sequence[EvalRow]) -> dict[str, object]:
    """Return the figures of each set as JSON, by the names that they have in TensorBoard."""
    return {"eval" if row.name == HELD_OUT else f"eval/{row.name}": row.to_json() for row in rows}


def pass_at(samples: int, correct: int, k: int) -> float:
    """Return the probability that k of `samples` responses, drawn without replacement, hold one of the `correct` ones.

    The unbiased estimator of Chen et al. (https://arxiv.org/abs/2107.03374).
    """
    assert 0 <= correct <= samples and 1 <= k <= samples
    return 1.0 - comb(samples - correct, k) / comb(samples, k)


def eval_row(
    version: int,
    results: Iterable[EvalResult],
    correctness: Correctness | None,
    entropy: float | None,
    *,
    name: str = HELD_OUT,
) -> EvalRow:
    """Return the figures over all prompts that were answered, not those that were given up; no `pass_at` if none
    was, or if rewards are graded."""
    results = list(results)
    answered = [result.group.responses for result in results if result.group.responses]
    correct = [judged for responses in answered if (judged := judge(correctness, responses)) is not None]
    samples = min((len(each) for each in answered), default=0)
    powers = [1 << power for power in range(samples.bit_length())]
    responses = [response for group in answered for response in group]
    return EvalRow(
        batch=batch_of(version),
        version=version,
        name=name,
        prompts=len(answered),
        samples=samples,
        pass_at={k: _mean([pass_at(len(each), sum(each), k) for each in correct]) for k in powers if correct},
        by_prompt=_by_prompt(results, correctness),
        reward=_mean([response.reward for response in responses]),
        rewards=function_rewards((), responses),
        length_mean=_mean([len(response.tokens) for response in responses]),
        truncated=_mean([response.finish is Finish.LENGTH for response in responses]),
        entropy=entropy,
    )


def _by_prompt(results: Iterable[EvalResult], correctness: Correctness | None) -> dict[int, float]:
    """Return the mean outcome of each prompt that was answered, by its place."""
    found: dict[int, float] = {}
    for group in sorted((result.group for result in results), key=lambda group: group.seq):
        if group.responses:
            judged = judge(correctness, group.responses)
            rewards = [response.reward for response in group.responses]
            found[group.seq] = fmean(rewards if judged is None else judged)
    return found


def shown(results: Sequence[EvalResult]) -> list[EvalResult]:
    """Return the results whose responses are written down, by prompt."""
    answered = [result for result in results if result.group.responses]
    return sorted(answered, key=lambda result: result.group.seq)[:SHOWN_PROMPTS]


def _mean(values: Sequence[float]) -> float:
    return fmean(values) if values else 0.0  # exactly rounded: the order in which answers arrived does not show
