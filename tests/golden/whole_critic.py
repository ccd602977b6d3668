"""Whole losses of methods with a critic: the policy's and the value function's. Each cites what it is written from.

V is the critic's value of the state before a token, r its reward: that of the response at its last trained token, else
0.
"""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor
from whole_batches import LONGEST, Loss, Paper, Scene, Slopes, differences, opened, scene
from whole_terms import clipped, ratio, token_mean, whitened

from isentrope.learner.objective import critic_terms

Lambda = Callable[[int], float]
"""Function from the trained tokens of a response to the lambda of its advantages."""


def ppo(paper: Paper) -> Loss:
    """PPO (1707.06347), equations 7 and 11, with gamma 1 and lambda 0.95; advantages whitened over the batch."""
    a = whitened(estimate(paper, lambda n: 0.95), paper.mask)
    return lambda rows, p, _: token_mean(clipped(ratio(p, paper.old), a, 0.2, 0.2), paper.mask, rows)


def vapo(paper: Paper) -> Loss:
    """VAPO (2504.05118), equations 8, 9, 10 and 14: lambda 1 - 1 / (0.05 n), clip-higher, 0.1 likelihood of what is
    right, the mean over its tokens."""
    a = whitened(estimate(paper, lambda n: max(0.0, 1 - 1 / (0.05 * n))), paper.mask)
    right = paper.mask & paper.correct[:, None]
    return lambda rows, p, _: (
        token_mean(clipped(ratio(p, paper.old), a, 0.2, 0.28), paper.mask, rows) + 0.1 * token_mean(-p, right, rows)
    )


def estimate(paper: Paper, lambda_of: Lambda) -> Tensor:
    """GAE (1506.02438), equation 16, term by term: A_t = sum_l lambda^l (r_t+l + V_t+l+1 - V_t+l), [N, T]."""
    a = torch.zeros_like(paper.old)
    for i in range(len(paper.group)):
        places = paper.mask[i].nonzero()[:, 0].tolist()
        v = [float(paper.values[i, t]) for t in places] + [0.0]
        last, weight = len(places) - 1, lambda_of(len(places)) if places else 0.0
        delta = [(float(paper.reward[i]) if k == last else 0.0) + v[k + 1] - v[k] for k in range(len(places))]
        for k, t in enumerate(places):
            a[i, t] = sum(weight ** (j - k) * delta[j] for j in range(k, len(places)))
    return a


def targets(paper: Paper, weight: float) -> Tensor:
    """VAPO (2504.05118), equation 7: A + V by the critic's own lambda, [N, T]; the reward itself for lambda 1."""
    if weight == 1:
        return (paper.reward[:, None] * paper.mask).double()
    return torch.where(paper.mask, estimate(paper, lambda n: weight) + paper.values, 0.0)


def value_loss(weight: float) -> Callable[[Paper], Callable[[Tensor, Tensor], Tensor]]:
    """PPO's implementation of the value loss: half the larger of both squares, the mean over the update's tokens."""

    def made(paper: Paper) -> Callable[[Tensor, Tensor], Tensor]:
        wanted, old = targets(paper, weight), paper.values

        def loss(rows: Tensor, v: Tensor) -> Tensor:
            near = old + (v - old).clamp(-0.2, 0.2)
            return token_mean(0.5 * torch.maximum((v - wanted) ** 2, (near - wanted) ** 2), paper.mask, rows)

        return loss

    return made


VALUE_LAMBDA = {"ppo": 0.95, "vapo": 1.0}
"""Lambda of the critic's targets, by preset."""


def worst_of_critic(method: str, weight: float, seeds: Iterable[int]) -> tuple[float, float]:
    """Largest relative difference of value loss and of its gradient over batches, with targets of lambda `weight`."""
    found = [differences(_product(scene(seed), method), _reference(scene(seed), weight)) for seed in seeds]
    return max(loss for loss, _ in found), max(gradient for _, gradient in found)


def _values(given: Scene) -> list[Tensor]:
    """Values before each update, with what must not matter off the mask: the old ones, then others near and far."""
    draw, paper = torch.Generator().manual_seed(len(given.paper.group)), given.paper
    moved = [torch.randn(paper.old.shape, generator=draw, dtype=torch.float64) * 0.3 for _ in given.updates]
    junk = torch.where(paper.mask, 0.0, -7.0)
    return [paper.values + (noise if number else 0.0) + junk for number, noise in enumerate(moved)]


def _product(given: Scene, method: str) -> list[Slopes]:
    objective, found = opened((method,), {}), []
    prepared = objective.prepare(given.batch, given.updates, objective.start())
    for update, values in enumerate(_values(given)):
        leaf, loss = values.clone().requires_grad_(), 0.0
        if prepared.tokens[update]:
            for rows in given.micro_batches[update]:
                part = critic_terms.loss(objective.critic, prepared, update, rows, leaf[rows])
                part.loss.backward()
                loss += float(part.loss.detach())
        found.append(_slopes(loss, leaf))
    return found


def _reference(given: Scene, weight: float) -> list[Slopes]:
    loss_of, found = value_loss(weight)(given.paper), []
    for rows, values in zip(given.updates, _values(given), strict=True):
        leaf = values.clone().requires_grad_()
        loss = loss_of(rows, leaf)
        loss.backward()
        found.append(_slopes(float(loss.detach()), leaf))
    return found


def _slopes(loss: float, leaf: Tensor) -> Slopes:
    gradient = torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
    return Slopes(loss, gradient, torch.zeros(1, LONGEST))
