"""Sizes of groups and batches, by the code that makes their bytes: a small one is made, and its growth extrapolated.

All of them grow linearly with the number of responses, as long as all responses have one length.
"""

import itertools
from dataclasses import dataclass

import numpy as np
import torch

from isentrope.kernels.plain import Moments
from isentrope.learner.intake.packing import make_batch
from isentrope.learner.intake.ragged import RaggedBatch, make_ragged
from isentrope.rollout.wire.codec import HeaderFields, encode_group
from isentrope.rollout.wire.types import Finish, Group, Response, version_of

_SMALLEST_CLASS = 16 << 10
"""Size from which the broker's allocator has four classes to each doubling."""

_SECONDS = ("generate", "reward")
"""Times that a group has, by activity."""

_ENTRY_BYTES = 512
"""Memory that the broker takes for a group beside its record: lease, size, place in the stream."""


RUN_BYTES = 1 << 20
"""Memory that the broker takes for a run beside its groups: connections, scripts, answers of an evaluation. Twice what
the demo took (`docs/results/capacity.json`)."""


@dataclass(frozen=True, slots=True)
class Shape:
    """Groups of equal size."""

    group_size: int
    prompt_tokens: int
    response_tokens: int
    rewards: tuple[str, ...] = ()
    """Names of the values that a reward has for each response."""


def group_bytes(shape: Shape) -> int:
    """Return the size of a group's payload, which the broker's budget counts."""
    one, two = (len(encode_group(_group(shape, responses))[1]) for responses in (1, 2))
    return one + (shape.group_size - 1) * (two - one)


def broker_bytes(shape: Shape) -> int:
    """Return the memory that the broker takes for a group."""
    header, _ = encode_group(_group(shape, 1))
    return allocated(group_bytes(shape) + _header_bytes(header)) + _ENTRY_BYTES


def allocated(size: int) -> int:
    """Return the memory that an allocator with four size classes to each doubling takes for `size` bytes."""
    if size <= _SMALLEST_CLASS:
        return size
    step = 1 << ((size - 1).bit_length() - 3)
    return -(-size // step) * step


def batch_bytes(shape: Shape, groups: int) -> int:
    """Return the size of a batch without padding, as a rank holds its responses."""
    one = _ragged(shape, 1, 1).nbytes
    more_responses = _ragged(shape, 1, 2).nbytes - one
    more_groups = _ragged(shape, 2, 1).nbytes - one
    return one + (groups - 1) * more_groups + groups * (shape.group_size - 1) * more_responses


def padded_bytes(shape: Shape, groups: int) -> int:
    """Return the size of a batch in the objective's form, with the statistics of every token."""
    ragged = _ragged(shape, 1, 1)
    batch = make_batch(ragged, Moments(*(torch.zeros(ragged.shape) for _ in Moments._fields)), seed=0)
    tensors = [value for name in batch.__slots__ if isinstance(value := getattr(batch, name), torch.Tensor)]
    return sum(tensor.nbytes for tensor in itertools.chain(tensors, batch.statistics)) * groups * shape.group_size


def _group(shape: Shape, responses: int, seq: int = 0) -> Group:
    count = shape.response_tokens
    response = Response(
        tokens=np.zeros(count, np.int32),
        logp_rollout=np.zeros(count, np.float32),
        mask=np.ones(count, np.bool_),
        span_start=np.zeros(1, np.int32),
        span_version=np.full(1, version_of(1, 0), np.int64),
        finish=Finish.LENGTH,
        reward=0.0,
        seed=(1 << 63) - 1,
        reward_parts=dict.fromkeys(shape.rewards, 0.0),
    )
    prompt = np.zeros(shape.prompt_tokens, np.int32)
    return Group(seq, 0, "a1", prompt, (response,) * responses, 1.0, seconds=dict.fromkeys(_SECONDS, 0.0))


def _ragged(shape: Shape, groups: int, responses: int) -> RaggedBatch:
    made = [_group(shape, responses, seq) for seq in range(groups)]
    functions = dict.fromkeys(shape.rewards, 1.0)
    return make_ragged(made, number=0, token_max_lag=0, correctness=None, functions=functions)


def _header_bytes(header: HeaderFields) -> int:
    return sum(len(name) + len(str(value)) for name, value in header.items())
