"""Masks of whole responses, worked out by hand."""

import torch

from isentrope.learner.objective.stages import responses

MASK = torch.tensor([[True, True], [True, False]])


def test_sequence_divergence_drops_wrong_responses_that_drifted_down() -> None:
    rollout = torch.zeros(2, 2)
    logp = torch.tensor([[-0.4, 0.0], [-0.1, -9.0]])  # mean drifts 0.2 and 0.1
    negative = torch.full((2, 2), -1.0)
    kept = responses.sequence_divergence(logp, rollout, negative, MASK, threshold=0.15)
    assert kept.tolist() == [[False, False], [True, True]]
    assert responses.sequence_divergence(logp, rollout, -negative, MASK, threshold=0.15).all()
    assert responses.sequence_divergence(-logp, rollout, negative, MASK, threshold=0.15).all()


def test_sequence_divergence_is_strict() -> None:
    logp = torch.tensor([[-0.25]])
    one = torch.ones(1, 1, dtype=torch.bool)
    assert responses.sequence_divergence(logp, torch.zeros(1, 1), torch.tensor([[-1.0]]), one, threshold=0.25).all()


def test_geometric_mask_keeps_what_is_close_on_average() -> None:
    old = torch.tensor([[0.3, -0.3], [0.3, 0.0]])
    kept = responses.geometric_mask(old, torch.zeros(2, 2), MASK, low=0.9, high=1.1)
    assert kept.tolist() == [[True, True], [False, False]]
