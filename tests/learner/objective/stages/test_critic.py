"""The value loss, worked out by hand."""

import torch

from isentrope.learner.objective.stages import critic


def test_clip_takes_the_larger_of_the_two() -> None:
    values = torch.tensor([2.0, 0.1], requires_grad=True)
    loss = critic.clipped(values, torch.tensor([0.0, 0.0]), torch.tensor([2.0, 1.0]), clip=0.2)
    # |2 - 2|^2 against |0.2 - 2|^2; |0.1 - 1|^2 both
    torch.testing.assert_close(loss, torch.tensor([1.62, 0.405]))
    (gradient,) = torch.autograd.grad(loss.sum(), values)
    torch.testing.assert_close(gradient, torch.tensor([0.0, -0.9]))


def test_huber_is_linear_beyond_delta() -> None:
    loss = critic.clipped(torch.tensor([5.0, 1.0]), torch.zeros(2), torch.zeros(2), clip=None, loss="huber", delta=2.0)
    assert loss.tolist() == [8.0, 0.5]
