"""The capacity of a run: figures worked out by hand, and what must grow with what."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isentrope.capacity.figures import Figures, Needs, Speeds, figures
from isentrope.capacity.model_memory import ModelFacts
from isentrope.capacity.sizes import Shape, group_bytes
from isentrope.config import Config

SEVEN_B = ModelFacts(
    parameters=7_600_000_000,
    itemsize=2,
    layers=28,
    hidden=3584,
    layer_bytes=200_000,
    rest_bytes=20_000,
    vocabulary=152_064,
)
LONG = Shape(64, 300, 8192)


def plan(speeds: Speeds = Speeds(1e9, 1e10), *, shape: Shape = LONG, retired: float = 0.0, **learner: Any) -> Figures:  # noqa: B008
    config = Config.model_validate(
        {
            "run": {"name": "r"},
            "model": {"path": "m"},
            "data": {"train": "t"},
            "sampling": {"group_size": 64},
            "learner": learner,
        }
    )
    return figures(Needs(config, SEVEN_B, shape, retired), speeds, gpu_bytes=80_000_000_000)


def test_long_groups_fill_the_budget_before_the_checkpoint() -> None:
    told = plan(prompts_per_batch=32, checkpoint_every=20)
    assert told.group_bytes == pytest.approx(4.73e6, rel=0.01)
    assert told.admission_closes_in_batch == 8
    assert told.checkpoint_batches == 1, "what is ahead leaves little of the half of the budget that calls for one"
    assert told.broker_groups == 32 + 96
    assert told.broker_bytes == pytest.approx(128 * 4.73e6, rel=0.2)


def test_frequent_checkpoints_keep_admission_open() -> None:
    told = plan(prompts_per_batch=8, checkpoint_every=3)
    assert told.admission_closes_in_batch is None and told.checkpoint_batches == 3
    assert told.broker_bytes == pytest.approx((3 + 3) * 8 * 4.73e6, rel=0.2)


def test_groups_are_kept_where_they_are_asked_for() -> None:
    kept = plan(prompts_per_batch=8, retain="groups")
    assert (kept.kept_bytes, plan(prompts_per_batch=8).kept_bytes) == (8 * kept.group_bytes, 0)


def test_a_publication_takes_the_time_of_the_weights_bytes() -> None:
    told = plan()
    assert told.weights_bytes == 15_200_000_000
    assert (told.write_s, told.fetch_s) == (pytest.approx(15.2), pytest.approx(1.52))


def test_a_rank_alone_does_not_fit_where_eight_do() -> None:
    small = {"micro_batch_tokens": 8492, "gradient_checkpointing": True, "zero_stage": 3}
    assert plan(ranks=1, **small).fits_gpu is False
    assert plan(ranks=8, **small).fits_gpu is True


def test_a_critic_takes_weights_gradients_and_optimizer_once_more() -> None:
    config = Config.model_validate({"run": {"name": "r"}, "model": {"path": "m"}, "data": {"train": "t"}})
    alone, beside = (figures(Needs(config, SEVEN_B, LONG, critic=has), Speeds(1e9, 1e10)) for has in (False, True))
    stage_2 = SEVEN_B.parameters * (2 + 2 + 12)
    assert beside.rank_bytes - alone.rank_bytes == stage_2


@settings(max_examples=25)
@given(st.floats(1, 1e6), st.floats(1, 1e6), st.floats(0, 20))
def test_actors_keep_up_with_the_learner_and_none_of_them_is_too_many(
    actor: float, learner: float, share: float
) -> None:
    actors = plan(Speeds(1e9, 1e9, actor, learner), shape=Shape(2, 2, 2), retired=share).actors
    wanted = learner * (1 + share)
    assert actors is not None and (actors - 1) * actor <= wanted * (1 + 1e-9) and wanted <= actors * actor * (1 + 1e-9)


@settings(max_examples=25)
@given(st.integers(1, 60), st.integers(1, 30), st.integers(0, 4))
def test_admission_closes_when_the_groups_of_so_many_batches_are_more_than_the_budget(
    every: int, prompts: int, lag: int
) -> None:
    told = plan(prompts_per_batch=prompts, checkpoint_every=every, staleness={"max_lag": lag})
    group, budget = group_bytes(LONG), told.budget_bytes
    if (closes := told.admission_closes_in_batch) is None:
        assert (every + lag + 1) * prompts * group <= budget + group
    else:
        assert (closes - 1) * prompts * group <= budget < (closes * prompts + 1) * group
