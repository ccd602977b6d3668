"""Rank 0's evaluations: places the orders, collects the answers, and writes down what they say.

Training waits meanwhile: the answers come from the same actors, and an evaluation that ends before training goes on is
the same in every run. Knows the broker and files; the figures are `evaluate.py`'s.
"""

from collections.abc import Sequence
from pathlib import Path

from isentrope.learner.intake.feeder import Feeder
from isentrope.learner.intake.packing import make_arrays
from isentrope.learner.training.evaluate import NAME, SHOWN_RESPONSES, orders, shown, summarise
from isentrope.learner.training.metrics import Journal, Row
from isentrope.learner.training.rank_group import RankGroup
from isentrope.learner.training.waiting import SLICE_S, Wait
from isentrope.rollout.data.prompts import open_prompts
from isentrope.rollout.data.tokenizer import load_tokenizer
from isentrope.rollout.wire.spec import RunSpec
from isentrope.rollout.wire.types import EvalResult, batch_of

ADMIT_COUNT = 64


class Examiner:
    """The held-out prompts of a run, if it has any."""

    def __init__(self, spec: RunSpec, rank_group: RankGroup, timeout_s: float) -> None:
        """`timeout_s`: how long no answer may come."""
        self._spec = spec
        self._rank_group = rank_group
        self._timeout_s = timeout_s
        self._prompts = open_prompts(spec.data, run_folder=Path(spec.run_folder), seed=spec.seed)
        self._tokenizer = load_tokenizer(spec.model_dir)
        self._figures = Journal(Path(spec.output_dir) / "eval.jsonl")
        self._samples = Journal(Path(spec.output_dir) / "samples.jsonl")

    @property
    def data_digest(self) -> str:
        """Digest of all data of the run."""
        return self._prompts.digest

    def rewind(self, batch: int) -> None:
        """Forget evaluations of later batches; -1: all."""
        self._figures.rewind(batch)
        self._samples.rewind(batch)

    def evaluate(self, version: int, feeder: Feeder) -> Row | None:
        """Evaluate `version`, which is announced; its line of `eval.jsonl`, or None without held-out prompts."""
        if not self._prompts.eval_count:
            return None
        results = self._collect(version, feeder)
        row = {"batch": batch_of(version), "version": version, "name": NAME}
        row |= summarise(results, self._spec.data.correct_above)
        if chosen := shown(results):
            row["entropy"] = self._show(chosen)
        self._figures.append(row)
        return row

    def _collect(self, version: int, feeder: Feeder) -> list[EvalResult]:
        wanted = orders(version, self._prompts.eval_count, self._spec.data.eval_samples)
        feeder.call(lambda port: port.issue_eval(wanted))
        results: list[EvalResult] = []
        wait = Wait(self._rank_group, self._timeout_s, feeder.why_waiting, f"evaluation of version {version}")
        while len(results) < len(wanted):
            new = feeder.call(lambda port: port.admit_eval(ADMIT_COUNT, SLICE_S))
            if new:
                results += new
                wait.progress()
            wait.tick()
        return results

    def _show(self, results: Sequence[EvalResult]) -> float:
        """Write a few responses down, with the learner's own entropy of every token; the mean over all of them."""
        groups = [result.group for result in results]
        arrays = make_arrays(
            groups, number=batch_of(results[0].version), token_max_lag=0, correct_above=self._spec.data.correct_above
        )
        entropy = self._rank_group.score(arrays).entropy
        for number in range(len(arrays.length)):
            if arrays.index[number] < SHOWN_RESPONSES:
                group = groups[arrays.group[number]]
                tokens = group.responses[arrays.index[number]].tokens
                self._samples.append(
                    {
                        "batch": batch_of(results[0].version),
                        "index": group.seq,
                        "prompt": self._tokenizer.decode(group.prompt),
                        "tokens": [self._tokenizer.decode([token]) for token in tokens],
                        "entropy": entropy[number, : len(tokens)].tolist(),
                        "reward": group.responses[arrays.index[number]].reward,
                    }
                )
        return float(entropy.sum() / arrays.length.sum())
