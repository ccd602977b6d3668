"""Sampling seeds as pure functions of the order, so that a group generated again uses the same random numbers.

They do not depend on the weights' version, the actor or the time.
"""

import hashlib
import json

SEED_BITS = 63
"""Seeds fit a signed 64-bit integer, the type that random generators of engines take."""


def sampling_seed(run_seed: int, seq: int, attempt: int, index: int) -> int:
    """Return the seed of response `index` of work order `seq`; another `attempt` of the order has other seeds."""
    return _seed("train", run_seed, seq, attempt, index)


def eval_seed(run_seed: int, name: str, index: int, sample: int) -> int:
    """Return the seed of answer `sample` to prompt `index` of set `name`; equal for all versions."""
    return _seed("eval", run_seed, name, index, sample)


def _seed(*what: str | int) -> int:
    digest = hashlib.blake2b(json.dumps(what).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> (64 - SEED_BITS)
