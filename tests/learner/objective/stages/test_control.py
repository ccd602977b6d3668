"""Controllers, step by step; and inside an objective: state is data, what it sets acts, a skipped update takes no
step."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from batches import gradient, halves, objective_of, random_batch, shared_out

from isentrope.errors import ConfigError
from isentrope.learner.intake.ledger import LedgerState
from isentrope.learner.objective.dimensions import DIMENSIONS
from isentrope.learner.objective.places import set_values
from isentrope.learner.objective.presets import build, load_objective
from isentrope.learner.objective.stages import control
from isentrope.learner.training.checkpoint_store import CheckpointState
from isentrope.rollout.wire.control import Mode


def test_entropy_step_acts_one_step_later_and_only_below_its_target() -> None:
    keys: dict[str, Any] = {"target": 0.2, "delta": 0.001, "high": 0.0015}
    state: control.ControllerState = {}
    values = []
    for entropy in (0.1, 0.1, 0.3, 0.1):
        state = control.entropy_step(state, entropy, **keys)
        values.append((round(state["coef"], 6), round(state["value"], 6)))
    assert values == [(0.001, 0.001), (0.0015, 0.0015), (0.0005, 0.0), (0.0015, 0.0015)]
    assert control.entropy_step({}, 0.2, **keys)["value"] == 0.0
    assert control.entropy_step({}, 0.2, inclusive=True, **keys)["value"] == 0.001


def test_entropy_pi_pushes_likely_tokens_up_above_its_target_and_pays_a_bonus_below() -> None:
    push = control.entropy_pi({"integral": 2.0}, 0.5, target=0.1, kp=1.0, ki=0.1)
    assert push["value"] == pytest.approx(0.4 + 0.2) and push["integral"] == pytest.approx(2.4)
    bonus = control.entropy_pi({"integral": 2.0}, 0.5, target=0.9, kp=0.5, ki=0.05, low=0.0, of="entropy")
    assert bonus["value"] == pytest.approx(0.2 + 0.1)


def test_the_integral_does_not_wind_up() -> None:
    state: control.ControllerState = {}
    for _ in range(1000):
        state = control.entropy_pi(state, 5.0, target=0.1, ki=0.01, integral_limit=1.0, hold_at_bound=False)
    assert state["integral"] == pytest.approx(100.0)
    for _ in range(60):
        state = control.entropy_pi(state, 0.0, target=2.0, kp=0.0, ki=0.01)
    assert state["value"] < 0


def test_the_sum_stands_still_while_the_value_is_at_the_bound_that_the_error_pushes_it_to() -> None:
    keys: dict[str, Any] = {"target": 0.5, "kp": 0.0, "ki": 1.0, "low": 0.0, "high": 0.3, "of": "entropy"}
    state: control.ControllerState = {}
    for _ in range(50):
        state = control.entropy_pi(state, 0.3, **keys)
    assert state["value"] == 0.3 and state["integral"] == pytest.approx(0.4)
    after = [control.entropy_pi(state, 0.7, **keys)]
    after.append(control.entropy_pi(after[-1], 0.7, **keys))
    assert [step["value"] for step in after] == pytest.approx([0.3, 0.2]), "it comes back at once"
    low = control.entropy_pi({"integral": -0.1}, 0.9, **keys)
    assert low["value"] == 0.0 and low["integral"] == -0.1
    assert control.entropy_pi({"integral": -0.1}, 0.9, **keys, hold_at_bound=False)["integral"] == pytest.approx(-0.5)


@pytest.mark.parametrize(
    ("keys", "value"),
    [
        ({"of": "entropy"}, 0.1),
        ({"of": "clip.high"}, 0.1),
        ({"of": "aux.high_prob_push"}, -0.1),
        ({"of": "tokens.positive_weight"}, -0.1),
        ({"of": "tokens.top_entropy.keep", "effect": "raises"}, 0.1),
        ({"of": "clip.high", "effect": "lowers"}, -0.1),
        ({"of": "clip.high", "initial": 0.28, "high": 0.3}, 0.3),
        ({"of": "clip.high", "initial": 0.28}, 0.38),
    ],
)
def test_a_value_moves_to_the_side_that_raises_entropy_where_it_is_too_low(keys: dict[str, Any], value: float) -> None:
    assert control.entropy_pi({}, 0.4, target=0.5, **keys)["value"] == pytest.approx(value)


def test_a_target_is_a_number_a_line_or_a_share_of_what_is_measured_first() -> None:
    points = [control.set_point({}, 0.9, progress, (0.6, 0.4))["target"] for progress in (0.0, 0.5, 1.0)]
    assert points == pytest.approx([0.6, 0.5, 0.4])
    first = control.set_point({}, 0.8, 0.0, {"initial": (1.0, 0.5)})
    assert first == {"target": pytest.approx(0.8), "first": 0.8}
    assert control.set_point(first, 0.3, 0.5, {"initial": (1.0, 0.5)}) == {"target": pytest.approx(0.6), "first": 0.8}
    assert control.set_point(first, 0.3, 0.5, 0.7) == {"target": 0.7}


def test_a_target_that_is_none_of_these_is_refused() -> None:
    for target in ({"first": 0.5}, {"initial": -1.0}, [0.5], {}, "half"):
        with pytest.raises(ConfigError, match="target"):
            objective_of("grpo", control=[{"kind": "entropy_pi", "of": "entropy", "target": target}])


@pytest.mark.parametrize(
    ("stage", "value", "at_bound"),
    [
        ({"kind": "entropy_step", "target": 0.5, "high": 0.25}, 0.25, True),
        ({"kind": "entropy_step", "target": 0.5, "high": 0.25}, 0.0, False),
        ({"kind": "entropy_step", "target": 0.5, "high": 0.25}, 0.2, False),
        ({"kind": "entropy_pi", "target": 0.5}, -1.0, True),
        ({"kind": "entropy_pi", "target": 0.5}, 1.0, True),
        ({"kind": "entropy_pi", "target": 0.5, "low": 0.0}, 0.0, False),
        ({"kind": "positive_weight", "target": 0.5}, 0.0, True),
        ({"kind": "positive_weight", "target": 0.5}, 1.0, False),
        ({"kind": "positive_weight_by_stage"}, 0.0, False),
        ({"kind": "adaptive_kl", "target": 0.5}, 1e-3, False),
    ],
)
def test_a_controller_is_at_its_bound_where_it_would_go_on(stage: dict[str, Any], value: float, at_bound: bool) -> None:
    objective = objective_of("grpo", control=[stage])
    kind = str(stage["kind"])
    assert objective.at_bound({kind: {"value": value}}) == ((kind,) if at_bound else ())


@pytest.mark.parametrize(
    ("kind", "value", "idle"),
    [
        ("entropy_step", 0.0, True),
        ("entropy_step", 0.1, False),
        ("positive_weight", 1.0, True),
        ("positive_weight", 0.0, False),
        ("entropy_pi", 0.0, False),
    ],
)
def test_a_controller_does_nothing_where_it_rests(kind: str, value: float, idle: bool) -> None:
    objective = objective_of("grpo", control=[{"kind": kind, "target": 0.5}])
    assert objective.idle({kind: {"value": value}}) == ((kind,) if idle else ())


def test_positive_weight_schedules() -> None:
    assert control.positive_weight({"value": 0.5}, 0.1, target=0.2, delta=0.1)["value"] == pytest.approx(0.4)
    assert control.positive_weight({"value": 0.95}, 0.3, target=0.2, delta=0.1)["value"] == 1.0
    by_stage = [control.positive_weight_by_stage({}, p)["value"] for p in (0.0, 0.5, 0.75, 1.0)]
    assert by_stage == [0.0, 0.0, 0.5, 1.0]
    by_epoch = [control.positive_weight_by_epoch({}, p, epochs=3)["value"] for p in (0.0, 0.4, 0.9, 1.0)]
    assert by_epoch == [0.0, 0.5, 1.0, 1.0]


def test_adaptive_kl_moves_by_at_most_a_fifth() -> None:
    grown = control.adaptive_kl({"value": 0.1}, 60.0, 100, target=6.0, horizon=1000)
    assert grown["value"] == pytest.approx(0.1 * 1.02)


def test_a_controller_sets_what_its_objective_computes_with() -> None:
    objective, batch = objective_of("positive_weight"), random_batch()
    whole = [[rows] for rows in halves(batch)]
    full, _, sums = gradient(objective, batch, whole, objective.start())
    state = {"positive_weight": {"value": 0.0}}
    none, _, _ = gradient(objective, batch, whole, state)
    prepared = objective.prepare(batch, halves(batch), objective.start())
    positive = prepared.advantage > 0
    assert full[0][positive].abs().sum() > 0 and not none[0][positive].any()
    assert torch.equal(full[0][~positive], none[0][~positive])
    lower = objective.after_update(objective.after_update(objective.start(), sums, 0.5), {**sums, "entropy": 0.0}, 0.5)
    assert lower["positive_weight"]["value"] == pytest.approx(0.95)


def test_any_key_of_the_update_is_set_from_the_next_update_on() -> None:
    keys = {"kind": "entropy_pi", "of": "clip.high", "target": 0.5, "initial": 0.2, "low": 0.0}
    controlled, batch = objective_of("grpo", control=[keys]), random_batch()
    whole = [[rows] for rows in halves(batch)]
    for value in (0.0, 0.05, 3.0):
        found, loss, _ = gradient(controlled, batch, whole, {"entropy_pi": {"value": value}})
        expected, expected_loss, _ = gradient(objective_of("grpo", clip={"high": value}), batch, whole)
        assert torch.equal(found, expected) and loss == expected_loss
    assert len({gradient(controlled, batch, whole, {"entropy_pi": {"value": v}})[1] for v in (0.0, 0.05, 3.0)}) == 3


def test_a_share_of_the_batch_is_set_for_a_whole_batch_whatever_its_micro_batches() -> None:
    keys = {"kind": "entropy_pi", "of": "tokens.top_entropy.keep", "effect": "raises", "target": 0.5}
    controlled, batch = objective_of("top_entropy", control=[{**keys, "initial": 0.2}]), random_batch()
    state = {"entropy_pi": {"value": 0.6}}
    expected, *_ = gradient(
        objective_of("top_entropy", tokens={"top_entropy": {"keep": 0.6}}), batch, [[r] for r in halves(batch)]
    )
    for count in (1, 3):
        found, *_ = gradient(controlled, batch, shared_out(halves(batch), count), state)
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-15)


def test_a_divergence_is_set_by_its_anchor_and_the_learning_rate_by_its_name() -> None:
    held = [{"kind": "k2", "anchor": "ref"}, {"kind": "k2", "anchor": "old", "coef": 0.5}]
    objective = objective_of("grpo", kl=held, control=[{"kind": "adaptive_kl", "target": 0.1}])
    terms = objective.controlled({"adaptive_kl": {"value": 0.7}}).kl
    assert [term.keys.coef for term in terms] == [0.7, 0.5]
    rate = {"kind": "entropy_pi", "of": "learning_rate", "effect": "lowers", "target": 0.5, "initial": 1.0, "low": 0.1}
    objective = objective_of("grpo", control=[rate])
    assert objective.learning_rate(objective.start()) == 1.0 == objective_of("grpo").learning_rate({})
    assert objective.learning_rate({"entropy_pi": {"value": 0.4}}) == 0.4


def test_a_controller_steps_after_each_update_or_after_each_batch() -> None:
    sums = {"tokens": 10.0, "entropy": 4.0, "logp_old": -4.0, "responses": 2.0}
    for every, stepped in (("update", "after_update"), ("batch", "after_batch")):
        keys = {"kind": "entropy_step", "target": 0.5, "delta": 0.25, "high": 1.0, "every": every}
        objective = objective_of("grpo", control=[keys])
        for name in ("after_update", "after_batch"):
            state = getattr(objective, name)(objective.start(), sums, 0.5)
            assert state["entropy_step"]["value"] == (0.25 if name == stepped else 0.0)


@pytest.mark.parametrize("method", ["skywork", "entropic", "positive_weight", "advanced", "pi_bonus"])
def test_state_survives_a_checkpoint(method: str) -> None:
    objective, batch = objective_of(method), random_batch()
    _, _, sums = gradient(objective, batch, [[rows] for rows in halves(batch)])
    state = objective.start()
    for step in range(3):
        state = objective.after_update(state, sums, step / 3)
    again = json.loads(json.dumps(state))
    assert again == state
    assert objective.after_update(again, sums, 1.0) == objective.after_update(state, sums, 1.0)


def test_an_objective_without_controllers_has_no_state() -> None:
    assert objective_of("grpo").start() == {}


CONTROLLERS: dict[str, dict[str, Any]] = {
    "entropy_step": {"target": 0.5, "delta": 0.01, "high": 0.03},
    "entropy_pi": {"target": {"initial": 0.9}, "ki": 0.3, "integral_limit": 0.2},
    "positive_weight": {"target": {"initial": [1.2, 0.8]}, "delta": 0.15},
    "positive_weight_by_stage": {"start": 0.3},
    "positive_weight_by_epoch": {"epochs": 3},
    "adaptive_kl": {"target": 0.05, "horizon": 50.0},
}
TARGETS: dict[str, dict[str, Any]] = {
    "entropy_pi": {"aux": [{"kind": "high_prob_push"}]},
    "adaptive_kl": {"kl": [{"kind": "k2", "anchor": "ref"}]},
} | {kind: {"tokens": [{"kind": "positive_weight"}]} for kind in CONTROLLERS if kind.startswith("positive_weight")}


def test_every_kind_of_controller_is_resumed_below() -> None:
    assert set(CONTROLLERS) == set(DIMENSIONS["control"].kinds)


@pytest.mark.parametrize("kind", CONTROLLERS)
def test_a_run_resumed_after_any_update_gives_the_same_coefficients(kind: str) -> None:
    own = {"control": [{"kind": kind, **CONTROLLERS[kind]}], **TARGETS.get(kind, {})}
    objective = build(load_objective("grpo", own, Path()), Path(), max_new_tokens=16)
    moves = torch.rand(12, generator=torch.Generator().manual_seed(5)).tolist()
    measured = [
        {"tokens": 100.0, "entropy": 100 * x, "logp_old": -100 * x, "kl_ref": 10 * x, "responses": 8.0} for x in moves
    ]

    def coefficients(resumed_after: int) -> list[Any]:
        state, seen = objective.start(), []
        for step, sums in enumerate(measured):
            state = objective.after_update(state, sums, (step + 1) / len(measured))
            seen.append(set_values(objective.control, state))
            if step == resumed_after:
                controllers = {name: dict(numbers) for name, numbers in state.items()}
                saved = CheckpointState(
                    config_digest="c", data_digest="d", mode=Mode.ASYNC, ledger=LedgerState(), controllers=controllers
                )
                state = CheckpointState.model_validate_json(saved.model_dump_json()).controllers
        return seen

    whole = coefficients(-1)
    assert len({str(value) for value in whole}) >= 3, "it moves"
    assert all(coefficients(stop) == whole for stop in range(len(measured)))
