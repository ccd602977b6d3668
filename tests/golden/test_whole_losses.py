"""The whole loss of every preset that can start, and its gradient, against a reference written from its paper."""

import pytest
from whole_critic import VALUE_LAMBDA, worst_of_critic
from whole_losses import EVERY, PRESETS, Whole, worst

from isentrope.methods import list_methods

BATCHES = range(10)


@pytest.mark.parametrize("whole", EVERY, ids=lambda whole: whole.name)
def test_loss_and_gradient_are_those_of_the_paper(whole: Whole) -> None:
    loss, gradient = worst(whole, BATCHES)
    assert loss <= 1e-9 and gradient <= 1e-9


@pytest.mark.parametrize(
    ("method", "own"),
    [
        ("deepseek_v32", {"reduce": "token_mean"}),
        ("m2po", {"ratio": {"anchor": "old"}}),
        ("m2po", {"clip": "ppo"}),
        ("unlikely", {"reward": {"unlikeliness": {"by": "sum"}}}),
        ("seed_grpo", {"modulation": {"semantic_entropy": {"alpha": 1.0}}}),
        ("steer", {"stats": "microbatch"}),
        ("tis", {"correction": "none"}),
        ("grpo", {"clip": {"high": 0.28}}),
        ("dapo", {"filter": []}),
        ("ce_gppo", {"clip": {"below": 0.5}}),
        ("ce_gppo", {"clip": {"above": 0.5}}),
        ("vespo", {"ratio": {"anchor": "old"}}),
        ("vespo", {"clip": {"negative_rate": 3.0}}),
        ("gdpo", {"advantage": {"baseline": {"eps": 0.01}}}),
        ("gdpo", {"advantage": {"baseline": "group_mean", "scale": "group_std"}}),
        ("remax", {"advantage": {"baseline": "none"}}),
        ("luffy", {"aux": [{"kind": "shaped_demonstration", "gamma": 0.3}]}),
        ("luffy", {"aux": [{"kind": "shaped_demonstration", "shape": "linear"}]}),
        ("opd", {"advantage": {"baseline": {"divergence": "forward"}}}),
        ("bcpg_nsa", {"tokens": {"step_labels": {"beta": 1.0}}}),
        ("luspo", {"reduce": "seq_token_mean"}),
        ("clip_b", {"tokens": {"discriminator": {"deviations": 1.0}}}),
        ("clip_v", {"tokens": {"centred_discriminator": {"deviations": 0.5}}}),
        ("entrocraft", {"advantage": {"baseline": {"low": [0.0, 0.0], "high": [3.0, 3.0]}}}),
        ("skywork", {"control": {"entropy_step": {"target": {"initial": 1.2}, "delta": 0.1, "high": 0.1}}}),
        ("positive_weight", {"control": {"positive_weight": {"target": {"initial": 1.2}}}}),
        ("entropic", {"control": {"entropy_pi": {"target": 0.3}}}),
        ("pi_bonus", {"control": {"entropy_pi": {"target": {"initial": 1.5}, "kp": 1.0, "high": 1.0}}}),
        ("pi_bonus", {"control": {"entropy_pi": {"of": "clip.high", "initial": 0.05}}}),
        ("ppo", {"advantage": {"baseline": {"lambda_policy": 1.0}}}),
        ("vapo", {"advantage": {"baseline": {"length_adaptive": 0.1}}}),
    ],
)
def test_another_loss_is_noticed(method: str, own: dict[str, object]) -> None:
    loss, gradient = worst(Whole((method,), PRESETS[method], own), range(4))
    assert max(loss, gradient) > 1e-2


@pytest.mark.parametrize("method", VALUE_LAMBDA)
def test_the_value_loss_and_its_gradient_are_those_of_the_paper(method: str) -> None:
    loss, gradient = worst_of_critic(method, VALUE_LAMBDA[method], BATCHES)
    assert loss <= 1e-9 and gradient <= 1e-9


@pytest.mark.parametrize(("method", "weight"), [("ppo", 1.0), ("vapo", 0.95)])
def test_targets_by_another_lambda_are_noticed(method: str, weight: float) -> None:
    assert max(worst_of_critic(method, weight, range(4))) > 1e-2


def test_every_preset_that_can_start_has_a_reference() -> None:
    assert {info.name for info in list_methods() if not info.missing} == set(PRESETS)
