"""Controllers, step by step; and inside an objective: state is data, what it sets acts, a skipped update takes no
step."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from batches import gradient, halves, objective_of, random_batch

from isentrope.learner.intake.ledger import LedgerState
from isentrope.learner.objective.dimensions import DIMENSIONS
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
        state = control.entropy_pi(state, 5.0, target=0.1, ki=0.01, integral_limit=1.0)
    assert state["integral"] == pytest.approx(100.0)
    for _ in range(60):
        state = control.entropy_pi(state, 0.0, target=2.0, kp=0.0, ki=0.01)
    assert state["value"] < 0


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
    lower = objective.after_update(objective.start(), {**sums, "entropy": 0.0}, 0.5)
    assert lower["positive_weight"]["value"] == pytest.approx(0.95)


@pytest.mark.parametrize("method", ["skywork", "entropic", "positive_weight", "advanced"])
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
    "entropy_pi": {"target": 0.5, "ki": 0.3, "integral_limit": 0.2},
    "positive_weight": {"target": 0.5, "delta": 0.15},
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
            seen.append(objective.overrides(state))
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
