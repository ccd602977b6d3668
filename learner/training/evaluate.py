"""What held-out answers say: the orders to place, pass@k, and a few responses to be read. Pure; knows no broker and no
network."""

from collections.abc import Iterable, Sequence
from math import comb
from typing import Any

import numpy as np

from isentrope.rollout.wire.types import EvalOrder, EvalResult, Finish

NAME = "heldout"
SHOWN_PROMPTS = 8
SHOWN_RESPONSES = 2
"""Responses of each shown prompt that are written down."""


def orders(version: int, prompts: int, samples: int) -> list[EvalOrder]:
    """One evaluation of `version`."""
    return [EvalOrder(NAME, index, version, samples, "") for index in range(prompts)]


def pass_at(samples: int, correct: int, k: int) -> float:
    """Probability that k of `samples` responses, drawn without replacement, hold one of the `correct` ones.

    The unbiased estimator of Chen et al. (https://arxiv.org/abs/2107.03374).
    """
    assert 0 <= correct <= samples and 1 <= k <= samples
    return 1.0 - comb(samples - correct, k) / comb(samples, k)


def summarise(results: Iterable[EvalResult], correct_above: float) -> dict[str, Any]:
    """Figures over all prompts that were answered, not those that were given up; no `pass_at` if none was."""
    answered = [result.group.responses for result in results if result.group.responses]
    correct = [[response.reward > correct_above for response in responses] for responses in answered]
    samples = min((len(each) for each in correct), default=0)
    powers = [1 << power for power in range(samples.bit_length())]
    responses = [response for group in answered for response in group]
    return {
        "prompts": len(answered),
        "samples": samples,
        "pass_at": {str(k): _mean([pass_at(len(each), sum(each), k) for each in correct]) for k in powers},
        "reward": _mean([response.reward for response in responses]),
        "length_mean": _mean([len(response.tokens) for response in responses]),
        "truncated": _mean([response.finish is Finish.LENGTH for response in responses]),
    }


def shown(results: Sequence[EvalResult]) -> list[EvalResult]:
    """The results whose responses are written down, by prompt."""
    answered = [result for result in results if result.group.responses]
    return sorted(answered, key=lambda result: result.group.seq)[:SHOWN_PROMPTS]


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else 0.0
