"""Builders of valid records, and hypothesis strategies for them."""

import math
from itertools import pairwise
from typing import Any

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from isentrope.rollout.broker.actor_port import ActorPort
from isentrope.rollout.broker.connection import Broker
from isentrope.rollout.config import MAX_REWARD, DataConfig, ModelConfig, SamplingConfig
from isentrope.rollout.wire.control import Control, Mode
from isentrope.rollout.wire.spec import RunSpec
from isentrope.rollout.wire.types import (
    Demonstration,
    Experts,
    Finish,
    Group,
    Missing,
    MissingReason,
    Response,
    SamplingMask,
    Steps,
    WorkOrder,
    version_of,
)
from isentrope.rollout.wire.weights import Manifest, Shard

VOCABULARY = 50
ASYNC = Control(mode=Mode.ASYNC, max_lag=1)


def make_spec(run: str, **changes: Any) -> RunSpec:
    facts: dict[str, Any] = {
        "run": run,
        "config_digest": "0123456789abcdef",
        "seed": 1,
        "model": ModelConfig(path="model"),
        "model_dir": "model",
        "vocab_size": VOCABULARY,
        "data": DataConfig(train="train.jsonl"),
        "data_digest": "fedcba9876543210",
        "sampling": SamplingConfig(group_size=2),
        "actors": {},
        "prompts_per_batch": 4,
        "run_folder": ".",
        "output_dir": "runs/test",
    }
    return RunSpec(**{**facts, **changes})


def make_actor_port(broker: Broker, actor: str = "a1", **changes: Any) -> ActorPort:
    """An actor of a run with `make_spec`'s facts and `changes` to them."""
    return ActorPort(broker, actor, make_spec(broker.keys.run, **changes))


def make_response(version: int, *, tokens: int = 3, **changes: Any) -> Response:
    fields: dict[str, Any] = {
        "tokens": np.arange(1, tokens + 1, dtype=np.int32),
        "logp_rollout": np.full(tokens, -0.5, np.float32),
        "mask": np.ones(tokens, np.bool_),
        "span_start": np.zeros(1, np.int32),
        "span_version": np.full(1, version, np.int64),
        "finish": Finish.STOP,
        "reward": 1.0,
        "seed": 7,
    }
    return Response(**{**fields, **changes})


def make_group(seq: int = 0, *, version: int = version_of(1, 0), **changes: Any) -> Group:
    response = make_response(version)
    fields: dict[str, Any] = {
        "seq": seq,
        "attempt": 0,
        "actor": "a1",
        "prompt": np.array([1, 2], np.int32),
        "responses": (response, response),
        "temperature": 1.0,
    }
    return Group(**{**fields, **changes})


def full_group(seq: int = 0) -> Group:
    """A group with every optional field, and a response that is missing."""
    response = make_response(
        version_of(2, 3),
        steps=Steps(np.array([0, 2], np.int32), np.array([1, 3], np.int32), np.array([True, False])),
        sampling_mask=SamplingMask(np.array([1, 4, 3, 9], np.int32), np.array([0, 2, 2, 4], np.int32)),
        routing=np.arange(16, dtype=np.uint8).reshape(4, 2, 2),
    )
    return make_group(
        seq,
        responses=(response, response),
        missing=(Missing(1, MissingReason.ENGINE, 5),),
        greedy_reward=0.5,
        demonstrations=(Demonstration(np.array([1, 2], np.int32), 1.0, {"format": 1.0}, "42"),),
    )


def answer(order: WorkOrder, *, version: int = version_of(1, 0), actor: str = "a1", **changes: Any) -> Group:
    """A group that fulfils `order`."""
    return make_group(order.seq, version=version, attempt=order.attempt, actor=actor, **changes)


def make_weights(incarnation: int = 1, batch: int = 0) -> Manifest:
    """A manifest without files."""
    return Manifest(
        version=version_of(incarnation, batch),
        shards=(),
        dtype="float32",
        tensors=Shard(file="tensors.json", size_bytes=0, digest=""),
        canary=None,
        digest=f"{incarnation}.{batch}",
        created=0.0,
    )


# --- strategies

texts = st.text(st.characters(codec="utf-8"), max_size=20)
reals = st.floats(-MAX_REWARD, MAX_REWARD)
named = st.dictionaries(texts, reals, max_size=4)
versions = st.builds(version_of, st.integers(1, 1 << 20), st.integers(0, (1 << 20) - 1))


def array(draw: st.DrawFn, values: st.SearchStrategy[Any], size: int, dtype: type[np.generic]) -> NDArray[Any]:
    return np.array(draw(st.lists(values, min_size=size, max_size=size)), dtype)


@st.composite
def responses(draw: st.DrawFn, prompt_length: int = 1) -> Response:
    """A response to a prompt of so many tokens, sometimes with fields that only some runs supply."""
    count = draw(st.integers(1, 12))
    starts = sorted({0, *draw(st.sets(st.integers(0, count - 1), max_size=3))})
    tokens = array(draw, st.integers(0, VOCABULARY - 1), count, np.int32)
    return Response(
        tokens=tokens,
        logp_rollout=array(draw, st.floats(-(2.0**60), 0.0, width=32), count, np.float32),
        mask=array(draw, st.booleans(), count, np.bool_),
        span_start=np.array(starts, np.int32),
        span_version=array(draw, versions, len(starts), np.int64),
        finish=draw(st.sampled_from(Finish)),
        reward=draw(reals),
        seed=draw(st.integers(0, (1 << 63) - 1)),
        reward_parts=draw(named),
        answer=draw(texts),
        steps=draw(st.none() | steps(count)),
        sampling_mask=draw(st.none() | sampling_masks(tokens)),
        routing=draw(st.none() | routings(count, prompt_length)),
    )


@st.composite
def steps(draw: st.DrawFn, count: int) -> Steps:
    places = sorted(draw(st.sets(st.integers(0, count), max_size=6)))
    ends = [(start, end) for start, end in pairwise(places) if draw(st.booleans())]
    start, end = (np.array([place[side] for place in ends], np.int32) for side in (0, 1))
    return Steps(start, end, array(draw, st.booleans(), len(ends), np.bool_))


@st.composite
def sampling_masks(draw: st.DrawFn, tokens: NDArray[np.int32]) -> SamplingMask:
    others = st.sets(st.integers(0, VOCABULARY - 1), max_size=3)
    kept = [sorted({int(token), *draw(others)}) if draw(st.booleans()) else [] for token in tokens]
    ids = np.array([each for ids in kept for each in ids], np.int32)
    return SamplingMask(ids, np.cumsum([0, *map(len, kept)]).astype(np.int32))


@st.composite
def routings(draw: st.DrawFn, count: int, prompt_length: int) -> Experts:
    shape = (draw(st.integers(count, count + prompt_length - 1)), draw(st.integers(1, 3)), draw(st.integers(1, 2)))
    if draw(st.booleans()):
        return array(draw, st.integers(0, 255), math.prod(shape), np.uint8).reshape(shape)
    return array(draw, st.integers(0, 511), math.prod(shape), np.uint16).reshape(shape)


@st.composite
def demonstrations(draw: st.DrawFn) -> Demonstration:
    tokens = array(draw, st.integers(0, VOCABULARY - 1), draw(st.integers(1, 6)), np.int32)
    return Demonstration(tokens, draw(reals), draw(named), draw(texts))


@st.composite
def groups(draw: st.DrawFn) -> Group:
    length = draw(st.integers(1, 6))
    found = draw(st.lists(responses(length), min_size=1, max_size=4))
    lost = draw(st.lists(st.tuples(st.sampled_from(MissingReason), st.integers(0, 1 << 20)), max_size=3))
    places = sorted(draw(st.permutations(range(len(found) + len(lost))))[: len(lost)])
    return Group(
        seq=draw(st.integers(0, (1 << 63) - 1)),
        attempt=draw(st.integers(0, 5)),
        actor=draw(texts),
        prompt=array(draw, st.integers(0, VOCABULARY - 1), length, np.int32),
        responses=tuple(found),
        temperature=draw(st.floats(1e-6, 1e6)),
        source=draw(texts),
        seconds=draw(named),
        missing=tuple(Missing(place, *each) for place, each in zip(places, lost, strict=True)),
        greedy_reward=draw(st.none() | reals),
        demonstrations=tuple(draw(st.lists(demonstrations(), max_size=2))),
    )
