"""The figures of an evaluation against their definitions."""

import json
from itertools import combinations
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from wire_records import make_group, make_response

from isentrope.learner.records import EvalRow
from isentrope.learner.training.evaluator import (
    SHOWN_PROMPTS,
    eval_row,
    held_out_score,
    named_figures,
    orders,
    pass_at,
    shown,
)
from isentrope.learner.training.function_rewards import MAX_PARTS, function_rewards
from isentrope.rollout.config import MAX_REWARD, DataConfig
from isentrope.rollout.rewards.correctness import Correctness
from isentrope.rollout.wire.types import EvalResult, Finish
from isentrope.rollout.wire.validation import Limits, validate_group

VERSION = 1 << 20


def result(index: int, rewards: list[float], *, tokens: int = 3) -> EvalResult:
    responses = tuple(make_response(VERSION, reward=reward, tokens=tokens) for reward in rewards)
    return EvalResult("heldout", VERSION, make_group(index, responses=responses))


def figures_of(*results: EvalResult) -> EvalRow:
    row = eval_row(VERSION, results, Correctness("reward", 0.5), entropy=None)
    assert EvalRow.model_validate_json(json.dumps(row.to_json())) == row
    return row


@given(st.lists(st.booleans(), min_size=1, max_size=8), st.data())
def test_pass_at_k_is_the_share_of_draws_with_a_correct_response(correct: list[bool], data: st.DataObject) -> None:
    k = data.draw(st.integers(1, len(correct)))
    draws = [any(draw) for draw in combinations(correct, k)]
    assert pass_at(len(correct), sum(correct), k) == pytest.approx(sum(draws) / len(draws))


def test_figures_are_means_over_prompts_and_responses() -> None:
    figures = figures_of(result(0, [1.0, 0.0]), result(1, [0.0, 0.0], tokens=5))
    assert figures.pass_at == {1: 0.25, 2: 0.5}
    assert (figures.prompts, figures.samples) == (2, 2)
    assert (figures.reward, figures.length_mean, figures.truncated) == (0.25, 4.0, 0.0)


@given(st.lists(st.lists(st.floats(0, 1), min_size=7, max_size=7), min_size=2, max_size=20), st.randoms())
def test_figures_do_not_depend_on_the_order_in_which_answers_arrive(rewards: list[list[float]], draw: Random) -> None:
    results = [result(index, each) for index, each in enumerate(rewards)]
    shuffled = draw.sample(results, len(results))
    assert figures_of(*shuffled) == figures_of(*results)


def test_the_score_of_several_sets_is_their_mean_and_each_has_its_name() -> None:
    rule = Correctness("reward", 0.5)
    rows = [eval_row(VERSION, [result(0, [each])], rule, None, name=f"s{each}") for each in (0, 1)]
    assert held_out_score(rows) == 0.5 and held_out_score(rows[1:]) == 1.0
    assert held_out_score([]) is None and held_out_score([eval_row(VERSION, [], None, None)]) is None
    assert list(named_figures(rows)) == ["eval/s0", "eval/s1"]
    assert list(named_figures([eval_row(VERSION, [], None, None)])) == ["eval"]


def test_a_reward_at_the_threshold_is_not_correct() -> None:
    assert figures_of(result(0, [0.5])).pass_at == {1: 0.0}


def test_graded_answers_have_a_mean_reward_and_no_pass_rate() -> None:
    row = eval_row(VERSION, [result(0, [0.9, 0.4])], None, entropy=None)
    assert (row.pass_at, row.reward, row.samples) == ({}, pytest.approx(0.65), 2)


@given(st.lists(st.tuples(st.none() | st.floats(-2, 2), st.floats(-2, 2)), min_size=1, max_size=9))
def test_each_function_has_its_own_figures(values: list[tuple[float | None, float]]) -> None:
    parts = [{"f": f, "g": g} if f is not None else {"g": g} for f, g in values]
    found = function_rewards(["f", "g", "never"], [make_response(VERSION, reward_parts=each) for each in parts])
    given_ones = [f for f, _ in values if f is not None]
    assert list(found) == ["f", "g", "never"]
    assert found["f"].missing == pytest.approx(sum(f is None for f, _ in values) / len(values))
    assert (found["f"].mean is None) == (not given_ones)
    if given_ones:
        assert found["f"].mean == pytest.approx(np.mean(given_ones))
        assert found["f"].std == pytest.approx(np.std(given_ones), abs=1e-12)
    assert found["g"].mean == pytest.approx(np.mean([g for _, g in values]))
    assert (found["never"].mean, found["never"].missing) == (None, 1.0)


@pytest.mark.parametrize("extreme", [MAX_REWARD, -MAX_REWARD])
def test_the_largest_rewards_that_a_record_may_hold_have_figures(extreme: float) -> None:
    responses = [make_response(VERSION, reward=extreme, reward_parts={"f": part}) for part in (extreme, extreme, 0.0)]
    validate_group(make_group(0, responses=tuple(responses)), Limits())
    row = eval_row(VERSION, [EvalResult("heldout", VERSION, make_group(0, responses=tuple(responses)))], None, None)
    assert row.reward == pytest.approx(extreme)
    assert row.rewards["f"].mean == pytest.approx(extreme * 2 / 3)
    assert row.rewards["f"].std is not None and np.isfinite(row.rewards["f"].std)


def test_names_that_records_make_up_do_not_displace_the_functions(caplog: pytest.LogCaptureFixture) -> None:
    made_up = [{"z": 1.0} | {f"a{number}.{part}": 0.0 for part in range(200)} for number in range(9)]
    responses = [make_response(VERSION, reward_parts=parts) for parts in made_up]
    found = function_rewards(["mine"], responses)
    assert {"mine", "z"} <= found.keys() and len(found) == MAX_PARTS + 1
    assert f"{len(responses) * 200 + 1 - MAX_PARTS} are not recorded" in caplog.text


def test_truncated_responses_are_counted() -> None:
    cut = make_response(VERSION, finish=Finish.LENGTH)
    one = EvalResult("heldout", VERSION, make_group(0, responses=(cut, make_response(VERSION))))
    assert figures_of(one).truncated == 0.5


def test_prompts_that_were_given_up_do_not_count() -> None:
    figures = figures_of(result(0, [1.0]), result(1, []))
    assert (figures.prompts, figures.pass_at) == (1, {1: 1.0})
    assert figures_of(result(1, [])).prompts == 0


def test_the_same_prompts_are_shown_every_time() -> None:
    some = [result(index, [0.0]) for index in np.random.default_rng(0).permutation(20)]
    assert [each.group.seq for each in shown([result(3, []), *some])] == list(range(SHOWN_PROMPTS))


def test_every_prompt_is_ordered_once_of_the_same_version() -> None:
    placed = orders(VERSION, {"heldout": 3}, DataConfig(train="a", eval="b", eval_samples=8))
    assert [(order.index, order.version, order.samples) for order in placed] == [(i, VERSION, 8) for i in range(3)]
