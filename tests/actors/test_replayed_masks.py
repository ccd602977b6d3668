"""Engine and learner agree on tokens that were chosen among the likeliest, if the learner replays among which."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from tiny_model import VOCABULARY, Version
from wire_records import make_group

from isentrope.rollout.wire.types import Group, Response

if TYPE_CHECKING:
    from isentrope.actors.engine import Engine, Sample

pytestmark = pytest.mark.slow

PROMPT = np.array([1, 10, 43, 5, 44, 16, 37, 24, 45], np.int32)
TEMPERATURE, SEEDS, TOKENS = 0.7, 8, 16


async def _generate(engine: "Engine", top_k: int, top_p: float) -> "list[Sample]":
    found = await engine.generate(
        PROMPT, range(SEEDS), max_tokens=TOKENS, temperature=TEMPERATURE, top_k=top_k, top_p=top_p
    )
    return [sample for sample in found if sample is not None]


def _group(samples: "list[Sample]") -> Group:
    responses = (
        Response(
            tokens=each.tokens,
            logp_rollout=each.logp,
            mask=np.ones(len(each.tokens), np.bool_),
            span_start=each.span_start,
            span_version=each.span_version,
            finish=each.finish,
            reward=0.0,
            seed=0,
            sampling_mask=each.sampling_mask,
        )
        for each in samples
    )
    return make_group(prompt=PROMPT, responses=tuple(responses))


def _gap(group: Group, version: Version) -> float:
    """Largest difference of the learner's log-probabilities from the engine's, nats."""
    from isentrope.learner.intake.packing import pack
    from isentrope.learner.intake.ragged import make_ragged
    from isentrope.learner.training.model import Policy
    from isentrope.learner.training.token_statistics import moments_at

    ragged = make_ragged([group], number=0, token_max_lag=0, correctness=None)
    packed = pack(ragged, range(len(ragged.length)))
    logp = Policy(version.model)(packed, moments_at(TEMPERATURE, packed.kept)).logp
    return float(np.abs(logp.detach().numpy() - ragged.logp_rollout).max())


CASES: list[tuple[int, float, Callable[[int], bool]]] = [
    (12, 1.0, lambda size: size == 12),
    (12, 0.8, lambda size: 1 <= size <= 12),
    (1, 1.0, lambda size: size == 1),
    (len(VOCABULARY), 0.9, lambda size: 1 <= size < len(VOCABULARY)),
]
"""top_k, top_p, and what holds for the number of kept tokens."""


@pytest.mark.parametrize(("top_k", "top_p", "fits"), CASES)
def test_the_gap_is_rounding_with_the_replayed_mask_and_not_without(
    runner: asyncio.Runner,
    engine: "Engine",
    versions: list[Version],
    top_k: int,
    top_p: float,
    fits: Callable[[int], bool],
) -> None:
    runner.run(engine.load(versions[0].manifest))
    samples = runner.run(_generate(engine, top_k, top_p))
    group = _group(samples)
    masks = [each.sampling_mask for each in group.responses]
    assert len(samples) == SEEDS
    assert all(mask is not None and all(map(fits, np.diff(mask.start).tolist())) for mask in masks)
    assert _gap(group, versions[0]) <= 1e-5
    bare = replace(group, responses=tuple(replace(each, sampling_mask=None) for each in group.responses))
    assert _gap(bare, versions[0]) > 0.05


def test_requests_of_the_whole_vocabulary_keep_every_bit_beside_truncated_ones(
    runner: asyncio.Runner, engine: "Engine", versions: list[Version]
) -> None:
    async def both() -> "tuple[list[Sample], list[Sample]]":
        await engine.load(versions[0].manifest)
        alone = await _generate(engine, 0, 1.0)
        beside, _ = await asyncio.gather(_generate(engine, 0, 1.0), _generate(engine, 12, 0.8))
        return alone, beside

    alone, beside = runner.run(both())
    for one, other in zip(alone, beside, strict=True):
        assert one.tokens.tobytes() == other.tokens.tobytes() and one.logp.tobytes() == other.logp.tobytes()
        assert one.sampling_mask is None and other.sampling_mask is None
