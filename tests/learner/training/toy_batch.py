"""A batch of random tokens."""

import numpy as np
import torch

from isentrope.kernels.plain import Moments
from isentrope.learner.intake.packing import make_batch
from isentrope.learner.intake.ragged import RaggedBatch, make_ragged, starts_of
from isentrope.learner.objective.batch import Batch
from isentrope.rollout.rewards.correctness import Correctness
from isentrope.rollout.wire.types import Finish, Group, Response, Steps, version_of

VOCABULARY = 46
LONGEST = 13


FUNCTIONS = {"second": 1.0, "third": 0.5}
"""Weights of the reward functions."""


def make_toy_rows(*, groups: int, group_size: int, seed: int = 0, number: int = 0) -> RaggedBatch:
    """Prompts of 4 to 9 tokens, responses of 1 to `LONGEST`, in pairs of right and wrong."""
    rng = np.random.default_rng(seed)

    def response(index: int) -> Response:
        length = int(rng.integers(1, LONGEST + 1))
        return Response(
            tokens=rng.integers(3, VOCABULARY, length).astype(np.int32),
            logp_rollout=np.full(length, -np.log(VOCABULARY), np.float32),
            mask=np.ones(length, np.bool_),
            span_start=np.zeros(1, np.int32),
            span_version=np.full(1, version_of(1, number), np.int64),
            finish=Finish.STOP,
            reward=float(index % 2),
            seed=index,
            steps=Steps(np.zeros(1, np.int32), np.full(1, (length + 1) // 2, np.int32), np.ones(1, np.bool_)),
            reward_parts={"second": float(index % 2), "third": float(index % 3 == 0)},
        )

    def group(seq: int) -> Group:
        prompt = rng.integers(3, VOCABULARY, int(rng.integers(4, 10))).astype(np.int32)
        return Group(seq, 0, "a1", prompt, tuple(map(response, range(group_size))), 1.0, greedy_reward=seq % 2 / 2)

    return make_ragged(
        list(map(group, range(groups))),
        number=number,
        token_max_lag=2,
        correctness=Correctness("reward", 0.5),
        newest_version=version_of(1, number),
        functions=FUNCTIONS,
    )


def padded(ragged: RaggedBatch, logp: torch.Tensor | None = None, entropy: torch.Tensor | None = None) -> Batch:
    """The batch with these log-probabilities and entropies of the policy before it; zeros, if none are given."""
    zero = torch.zeros(ragged.shape)
    given = (zero if logp is None else logp, zero if entropy is None else entropy)
    return make_batch(ragged, Moments(*given, zero, zero), seed=0)


def prompt_of(ragged: RaggedBatch, row: int) -> list[int]:
    """Token ids of the prompt of response `row`."""
    group = ragged.group[row]
    start = starts_of(ragged.prompt_length)[group]
    ids: list[int] = ragged.prompt[start : start + ragged.prompt_length[group]].tolist()
    return ids


def tokens_of(ragged: RaggedBatch, row: int) -> list[int]:
    """Token ids of response `row`."""
    start = starts_of(ragged.length)[row]
    ids: list[int] = ragged.tokens[start : start + ragged.length[row]].tolist()
    return ids
