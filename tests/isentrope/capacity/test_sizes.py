"""Sizes that are extrapolated, against whole groups and batches, and against the memory of a real broker."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from wire_records import make_group

from isentrope.capacity import sizes
from isentrope.capacity.sizes import Shape
from isentrope.kernels.plain import Moments
from isentrope.learner.intake.packing import make_batch
from isentrope.learner.intake.ragged import make_ragged
from isentrope.redis_server import RedisServer
from isentrope.rollout.broker.connection import Broker
from isentrope.rollout.wire.codec import encode_group
from isentrope.rollout.wire.types import Finish, Group, Response, version_of

shapes = st.builds(Shape, st.integers(1, 40), st.integers(1, 300), st.integers(1, 300), st.just(("rewards:right",)))


def whole(shape: Shape, seq: int = 0) -> Group:
    """A group of the shape, with values of its own in every response."""
    draw, count = np.random.default_rng(seq), shape.response_tokens
    responses = tuple(
        Response(
            tokens=draw.integers(0, 30000, count, np.int32),
            logp_rollout=-draw.random(count, np.float32),
            mask=np.ones(count, np.bool_),
            span_start=np.zeros(1, np.int32),
            span_version=np.full(1, version_of(1, 0), np.int64),
            finish=Finish.LENGTH,
            reward=1.0,
            seed=int(draw.integers(1 << 62, 1 << 63)),
            reward_parts=dict.fromkeys(shape.rewards, 0.5),
        )
        for _ in range(shape.group_size)
    )
    prompt = draw.integers(0, 30000, shape.prompt_tokens, np.int32)
    return make_group(seq, prompt=prompt, responses=responses, seconds={"generate": 1.0, "reward": 1.0})


@given(shapes)
@settings(max_examples=30)
def test_a_group_is_as_large_as_its_payload(shape: Shape) -> None:
    assert sizes.group_bytes(shape) == pytest.approx(len(encode_group(whole(shape))[1]), abs=16)


@given(shapes, st.integers(1, 6))
@settings(max_examples=15)
def test_a_batch_is_as_large_as_what_the_ranks_get_and_hold(shape: Shape, groups: int) -> None:
    made = [whole(shape, seq) for seq in range(groups)]
    functions = dict.fromkeys(shape.rewards, 1.0)
    ragged = make_ragged(made, number=0, token_max_lag=0, correctness=None, functions=functions)
    assert sizes.batch_bytes(shape, groups) == ragged.nbytes
    batch = make_batch(ragged, Moments(*(torch.zeros(ragged.shape) for _ in range(4))), seed=0)
    columns = [getattr(batch, name) for name in batch.__slots__]
    held = sum(value.nbytes for value in [*columns, *batch.statistics] if isinstance(value, torch.Tensor))
    assert sizes.padded_bytes(shape, groups) == held


@pytest.mark.parametrize("tokens", [20, 3000, 9000])
def test_a_broker_takes_as_much_memory_as_planned(server: RedisServer, run_name: str, tokens: int) -> None:
    shape, count = Shape(16, 50, tokens), 24
    broker = Broker.connect(server.url, run_name)
    header, payload = encode_group(whole(shape))

    def used() -> int:
        return int(broker.run(lambda client: client.info("memory"))["used_memory"])

    def add(client: object, seq: int) -> None:
        client.xadd(broker.keys.traj, {**header, "payload": payload})  # type: ignore[attr-defined]
        client.hset(broker.keys.sizes, seq, len(payload))  # type: ignore[attr-defined]

    broker.run(lambda client: add(client, count))
    before = used()
    for seq in range(count):
        broker.run(lambda client, seq=seq: add(client, seq))  # type: ignore[misc]
    assert used() - before == pytest.approx(count * sizes.broker_bytes(shape), rel=0.1, abs=100_000)
    broker.close()
