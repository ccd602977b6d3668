"""A failure never votes: with every preset, a batch with failed responses is the one in which they were never asked
for, from the actor to the gradient."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
import torch
from batches import current_policy, gradient, halves, objective_of
from group_script import FATES, REASONS, GroupScript
from torch import Tensor
from wire_records import VOCABULARY

from isentrope.kernels.plain import Moments
from isentrope.learner.intake.packing import make_batch
from isentrope.learner.intake.ragged import RaggedBatch, make_ragged
from isentrope.learner.objective.batch import Batch
from isentrope.learner.objective.monitors import batch_metrics
from isentrope.learner.objective.needs import PROVIDED, Need, needs
from isentrope.learner.objective.presets import method_names
from isentrope.rollout.rewards.correctness import Correctness
from isentrope.rollout.wire.codec import decode_group, encode_group
from isentrope.rollout.wire.types import Demonstration, Group, Response, Steps, WorkOrder, version_of
from isentrope.rollout.wire.validation import Limits

RUNNABLE = [name for name in method_names() if set(needs(objective_of(name))) <= PROVIDED]
FUNCTIONS = {"third": 1.0, "fifth": 0.5}
GROUPS, SIZE, BATCHES = 6, 8, 2


def drawn_fates(seed: int) -> list[dict[int, str]]:
    """Groups of responses of which at least two are healthy, and some of the others fail; a group is whole."""
    draw = np.random.default_rng(seed)
    names = iter(range(GROUPS * SIZE))
    fates = [{next(names): str(draw.choice(FATES)) for _ in range(SIZE)} for _ in range(GROUPS)]
    for number, group in enumerate(fates):
        healthy = SIZE if number == 0 else 2
        group |= dict.fromkeys(list(group)[:healthy], "good")
    return fates


def with_steps(response: Response) -> Response:
    """The response with one step, its first half."""
    end = np.full(1, (len(response.tokens) + 1) // 2, np.int32)
    return replace(response, steps=Steps(np.zeros(1, np.int32), end, np.ones(1, np.bool_)))


def published(seq: int, fates: Mapping[int, str]) -> Group:
    """The group as the learner reads it."""
    script, order = GroupScript(fates), WorkOrder(seq, 0, 1, 0, 0, "work", f"{seq}-0")
    made = asyncio.run(script.maker().score(script.generated(order), "a1"))
    limits = Limits(VOCABULARY, len(fates), version_of(1, 0))
    shown = Demonstration(np.arange(1, 5, dtype=np.int32), seq % 2, dict.fromkeys(FUNCTIONS, 0.5))
    made = replace(made, greedy_reward=seq % 2 + 0.25, demonstrations=(shown,))
    made = replace(made, responses=tuple(map(with_steps, made.responses)))
    return decode_group(*encode_group(made), max_bytes=1 << 20, limits=limits)


def ragged_of(fates: Sequence[Mapping[int, str]]) -> RaggedBatch:
    groups = [published(seq, each) for seq, each in enumerate(fates)]
    correctness = Correctness("reward", 0.5)
    return make_ragged(
        groups, number=3, token_max_lag=4, correctness=correctness, functions=FUNCTIONS, demonstrations=True
    )


def batch_of(ragged: RaggedBatch) -> Batch:
    """The batch with statistics and reference that are functions of the response alone, as a network's are."""
    names = ragged.tokens[np.cumsum(ragged.length) - ragged.length]

    def column(of: int, scale: float) -> Tensor:
        padded = torch.zeros(ragged.shape, dtype=torch.float64)
        for row, name in enumerate(names):
            noise = np.random.default_rng([int(name), of]).random(ragged.length[row])
            padded[row, : ragged.length[row]] = torch.from_numpy(scale * noise)
        return padded

    moments = Moments(-column(1, 3.0), column(2, 2.0), column(3, 0.5), -column(4, 0.5))
    batch = make_batch(ragged, moments, seed=7, logp_ref=-column(5, 3.0), dtype=torch.float64)
    return replace(batch, supplied={"values": column(6, 1.0)})


@pytest.fixture(scope="module", params=range(BATCHES))
def pair(request: pytest.FixtureRequest) -> tuple[Batch, Batch]:
    """A batch with failed responses, and the one in which they were never asked for."""
    fates = drawn_fates(request.param)
    failed = sum(fate in REASONS for group in fates for fate in group.values())
    assert 0 < failed < GROUPS * SIZE / 2 + GROUPS
    healthy = [{name: fate for name, fate in group.items() if fate not in REASONS} for group in fates]
    return batch_of(ragged_of(fates)), batch_of(ragged_of(healthy))


def assert_same(one: Any, two: Any, where: str) -> None:
    if isinstance(one, Tensor):
        assert torch.equal(one, two), where
    elif isinstance(one, dict):
        assert one.keys() == two.keys()
        for name in one:
            assert_same(one[name], two[name], f"{where}[{name}]")
    elif isinstance(one, tuple):
        assert len(one) == len(two)
        for number, pair in enumerate(zip(one, two, strict=True)):
            assert_same(*pair, f"{where}[{number}]")
    elif not isinstance(one, Batch):
        assert one == two, where


@pytest.mark.parametrize("method", RUNNABLE)
def test_failed_responses_have_no_part_in_advantages_filters_denominators_statistics_and_gradient(
    method: str, pair: tuple[Batch, Batch]
) -> None:
    objective = objective_of(method)
    if Need.DEMONSTRATIONS not in needs(objective):
        first, second = (replace(each.take(each.sampled.nonzero()[:, 0]), demonstration=None) for each in pair)
        pair = first, second
    failed, never = pair
    for name in (each.name for each in fields(Batch)):
        assert_same(getattr(failed, name), getattr(never, name), name)
    prepared = [objective.prepare(batch, halves(batch), objective.start()) for batch in pair]
    for name in (each.name for each in fields(prepared[0])):
        assert_same(getattr(prepared[0], name), getattr(prepared[1], name), name)
    assert batch_metrics(failed, prepared[0]) == batch_metrics(never, prepared[1])
    results = [
        gradient(objective, batch, [[rows] for rows in halves(batch)], policy=current_policy(batch)) for batch in pair
    ]
    for name, one, two in zip(("gradient", "loss", "sums"), *results, strict=True):
        assert_same(one, two, name)
