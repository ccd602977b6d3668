"""Arrays of a batch of random tokens."""

import numpy as np

from isentrope.learner.intake.packing import Arrays, make_arrays
from isentrope.rollout.wire.types import Finish, Group, Response, version_of

VOCABULARY = 46
LONGEST = 13


def make_toy_arrays(*, groups: int, group_size: int, seed: int = 0, number: int = 0) -> Arrays:
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
        )

    def group(seq: int) -> Group:
        prompt = rng.integers(3, VOCABULARY, int(rng.integers(4, 10))).astype(np.int32)
        return Group(seq, 0, "a1", prompt, tuple(map(response, range(group_size))), 1.0)

    return make_arrays(list(map(group, range(groups))), number=number, token_max_lag=2, correct_above=0.5)
