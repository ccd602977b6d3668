"""The entropy bonus."""

import torch

from isentrope.learner.objective.stages import entropy


def test_bonus_pays_for_entropy() -> None:
    assert entropy.bonus(torch.tensor([[2.0]]), coef=0.25).item() == -0.5
