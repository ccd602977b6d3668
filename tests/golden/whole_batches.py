"""Random ragged batches for whole losses, in the notation of papers, and what the product makes of them.

A batch has groups of one outcome, of graded rewards and mixed ones, stale tokens and whole stale responses, truncated
responses, jumps of a nat between the policies, and several updates of whole groups in shuffled micro-batches.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from isentrope.kernels.plain import Moments
from isentrope.learner.config import LearnerConfig
from isentrope.learner.objective import philox
from isentrope.learner.objective.batch import Batch
from isentrope.learner.objective.needs import Need, needs
from isentrope.learner.objective.objective import Objective
from isentrope.learner.objective.run import open_objective
from isentrope.rollout.config import SamplingConfig

LONGEST = 24
PART_WEIGHTS = (1.0, 0.5, -2.0)
"""Weights of the reward functions."""


@dataclass(frozen=True)
class Paper:
    """What papers speak of: N responses, T tokens of the longest, log-probabilities in nats."""

    group: Tensor
    """[N]: number of the response's prompt."""
    reward: Tensor
    correct: Tensor
    length: Tensor
    answer: Tensor
    """[N]; -1: none."""
    valid: Tensor
    """[N, T] bool: a token of the response."""
    mask: Tensor
    """[N, T] bool: and one that is trained."""
    rollout: Tensor
    """[N, T]: log-probability to the policy that sampled."""
    old: Tensor
    """[N, T]: to the policy before the first update."""
    ref: Tensor
    """[N, T]: to the reference policy."""
    entropy: Tensor
    """[N, T]: of the policy before the first update."""
    chance: Tensor
    """[N, T]: uniform random numbers, for methods that draw tokens."""
    values: Tensor
    """[N, T]: a critic's estimates before the first update."""
    parts: Tensor
    """[N, R]: value of each reward function; not a number where one did not apply."""
    greedy: Tensor
    """[N]: reward of the greedy response to the same prompt."""
    good_step: Tensor
    """[N, T] bool: of a step that was judged correct."""
    squares: Tensor
    """[N, T]: sum of p^2 over the vocabulary, of the policy before the first update."""
    squares_logp: Tensor
    """[N, T]: sum of p^2 log p."""
    shown: Tensor
    """[N, T] bool: of a demonstration, for methods that have some: the last response of each group."""
    progress: float = 0.25
    """Share of the run that is done."""


Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Function from response numbers of an update, and log-probabilities and entropies [N, T] of the current policy, to the
loss of that update. Called in the order of the updates."""
Reference = Callable[[Paper], Loss]


@dataclass(frozen=True)
class Scene:
    """A batch with its updates: response numbers of each, those of its micro-batches, and the policy before it."""

    paper: Paper
    batch: Batch
    updates: tuple[Tensor, ...]
    micro_batches: tuple[tuple[Tensor, ...], ...]
    policies: tuple[tuple[Tensor, Tensor], ...]


@dataclass(frozen=True)
class Slopes:
    """A loss of one update with its gradient by log-probabilities and entropies, [N, T] each."""

    loss: float
    by_logp: Tensor
    by_entropy: Tensor


@cache
def scene(seed: int) -> Scene:
    """Draw a scene."""
    draw = torch.Generator().manual_seed(seed)
    prompts, group_size = _between(3, 6, draw), _between(2, 8, draw)
    group = torch.arange(prompts).repeat_interleave(group_size)
    n = len(group)
    reward = _rewards(prompts, group_size, draw)
    length = torch.where(_chance(n, draw) < 0.2, LONGEST, torch.randint(1, LONGEST, (n,), generator=draw))
    valid = torch.arange(LONGEST) < length[:, None]
    stale = (_chance((n, LONGEST), draw) < 0.05) | (_chance(n, draw) < 0.06)[:, None]
    stale[-group_size:] = False  # of a mixed group, so that something is always trained
    mask = valid & ~stale
    sure = 0.1 if _chance(1, draw) < 0.4 else 1.0  # low enough for what acts on low entropy
    rollout = sure * _logp(n, draw) * valid
    old, ref = (rollout + _step((n, LONGEST), size, draw) * valid for size in (0.05, 0.3))
    entropy = sure * _chance((n, LONGEST), draw) * 2.0 * valid
    index = torch.arange(group_size).repeat(prompts)
    chance = philox.uniform(7, 3, 0, group + 100, index, LONGEST)
    answer = torch.randint(-1, 3, (n,), generator=draw)
    apart = torch.Generator().manual_seed(seed)
    values, squares, squares_logp = ((_chance((n, LONGEST), apart) * valid) for _ in range(3))
    parts, greedy = _parts(reward), group % 3 / 2.0
    good_step = valid & ((torch.arange(LONGEST) // 3 + torch.arange(n)[:, None]) % 2 == 0)
    paper = Paper(
        group,
        reward,
        reward > 0.5,
        length,
        answer,
        valid,
        mask,
        rollout,
        old,
        ref,
        entropy,
        chance,
        values,
        parts,
        greedy,
        good_step,
        squares,
        -squares_logp,
        valid & (index == group_size - 1)[:, None],
    )
    batch = Batch(
        number=3,
        source_names=("one",),
        group=group,
        seq=group + 100,
        index=index,
        reward=reward,
        parts=paper.parts,
        greedy_reward=paper.greedy,
        step_correct=paper.good_step,
        demonstration=paper.shown,
        part_weights=PART_WEIGHTS,
        correct=paper.correct,
        length=length,
        truncated=length == LONGEST,
        source=torch.zeros_like(group),
        answer=answer,
        mask=mask,
        lag=torch.randint(0, 3, (n, LONGEST), generator=draw),
        logp_rollout=rollout,
        valid=valid,
        seed=7,
        progress=paper.progress,
        statistics=Moments(old, entropy, paper.squares, paper.squares_logp),
        logp_ref=ref,
        supplied={"values": values},
    )
    updates = _updates(group, prompts, draw)
    micro_batches = tuple(_micro_batches(rows, draw) for rows in updates)
    return Scene(paper, batch, updates, micro_batches, _policies(paper, len(updates), draw))


def opened(methods: Sequence[str], own: Mapping[str, object]) -> Objective:
    """Open the objective of a run with these presets and own keys."""
    learner = LearnerConfig(method=list(methods), objective=dict(own))
    sampling = SamplingConfig(max_new_tokens=LONGEST)
    return open_objective(learner, sampling, run_folder=Path("/"), evaluates=True).objective


def product(given: Scene, objective: Objective) -> list[Slopes]:
    """Return what the objective of a run gives: its whole preparation, then update for update by micro-batches."""
    found, state = [], objective.start()
    shows = Need.DEMONSTRATIONS in needs(objective)
    batch = given.batch if shows else replace(given.batch, demonstration=None)
    prepared = objective.prepare(batch, given.updates, state)
    for update, (logp, entropy) in enumerate(given.policies):
        leaves = [x.clone().requires_grad_() for x in (logp, entropy)]
        if not prepared.tokens[update]:
            found.append(Slopes(0.0, *(torch.zeros_like(x) for x in leaves)))
            continue
        loss, sums = 0.0, dict[str, float]()
        for rows in given.micro_batches[update]:
            part = objective.token_loss(prepared, update, rows, leaves[0][rows], leaves[1][rows], state)
            part.loss.backward()
            loss += float(part.loss.detach())
            sums = {name: sums.get(name, 0.0) + float(value) for name, value in part.sums.items()}
        state = objective.after_update(state, sums, 0.5)
        found.append(Slopes(loss, *(_gradient(x) for x in leaves)))
    return found


def reference(given: Scene, of: Reference) -> list[Slopes]:
    """Return what a reference gives for the same batch and updates."""
    loss_of, found = of(given.paper), []
    for rows, (logp, entropy) in zip(given.updates, given.policies, strict=True):
        leaves = [x.clone().requires_grad_() for x in (logp, entropy)]
        loss = loss_of(rows, leaves[0], leaves[1])
        if loss.requires_grad:
            loss.backward()
        found.append(Slopes(float(loss.detach()), *(_gradient(x) for x in leaves)))
    return found


def differences(found: list[Slopes], wanted: list[Slopes]) -> tuple[float, float]:
    """Return the largest relative difference of losses and of gradients over the updates of a batch.

    A gradient's is measured against its largest element; a loss's against the loss or, where its terms cancel, against
    the sum of the gradient's sizes, which is that of the terms.
    """
    losses, gradients = [0.0], [0.0]
    for mine, theirs in zip(found, wanted, strict=True):
        size = float(theirs.by_logp.abs().sum())
        losses.append(_relative(abs(mine.loss - theirs.loss), max(abs(theirs.loss), size)))
        for one, other in ((mine.by_logp, theirs.by_logp), (mine.by_entropy, theirs.by_entropy)):
            gradients.append(_relative(float((one - other).abs().max()), float(other.abs().max())))
    return max(losses), max(gradients)


def _relative(difference: float, size: float) -> float:
    return difference / size if size else difference


def _gradient(leaf: Tensor) -> Tensor:
    return torch.zeros_like(leaf) if leaf.grad is None else leaf.grad


def _rewards(prompts: int, size: int, draw: torch.Generator) -> Tensor:
    """Return rewards [N]: a group of equal rewards, one all right of different rewards, and mixed ones."""
    right = 0.6 + 0.4 * _chance((prompts, size), draw)
    wrong = 0.4 * _chance((prompts, size), draw) * (_chance((prompts, size), draw) < 0.5)
    reward = torch.where(_chance((prompts, size), draw) < 0.5, right, wrong)
    reward[:, 0], reward[:, 1] = right[:, 0], wrong[:, 1]
    reward[0] = 0.97 if _chance(1, draw) < 0.5 else 0.1
    reward[1] = right[1]
    return reward.flatten()


def _parts(reward: Tensor) -> Tensor:
    """Return values [N, R] of three reward functions, one of which does not apply to every response. They take no
    random number of the scene."""
    place = torch.arange(len(reward))
    format_ = (place * 7 % 5 < 2).double()
    brevity = torch.where(place % 6 == 4, torch.nan, (place * 3 % 7).double() / 7)
    return torch.stack([(reward > 0.5).double(), format_, brevity], dim=1)


def _logp(n: int, draw: torch.Generator) -> Tensor:
    """Return log-probabilities of sampled tokens, a third of them nearly sure."""
    sure = _chance((n, LONGEST), draw) < 0.33
    return -torch.where(sure, 0.04, 3.0) * (_chance((n, LONGEST), draw) + 1e-3)


def _step(shape: tuple[int, ...], size: float, draw: torch.Generator) -> Tensor:
    """Return changes of log-probabilities, one in thirty of them by up to some nats."""
    noise = torch.randn(shape, generator=draw, dtype=torch.float64)
    return noise * torch.where(_chance(shape, draw) < 1 / 30, 1.5, size)


def _updates(group: Tensor, prompts: int, draw: torch.Generator) -> tuple[Tensor, ...]:
    """Return response numbers of one to three updates of whole groups, sometimes with a second epoch."""
    count, epochs = _between(1, 3, draw), 1 + _between(1, 3, draw) // 3
    owner = torch.randperm(prompts, generator=draw) % count
    once = [(owner[group] == number).nonzero()[:, 0] for number in range(count)]
    return tuple(once * epochs)


def _micro_batches(rows: Tensor, draw: torch.Generator) -> tuple[Tensor, ...]:
    count = min(_between(1, 3, draw), len(rows))
    return tuple(rows[torch.randperm(len(rows), generator=draw)].tensor_split(count))


def _policies(paper: Paper, updates: int, draw: torch.Generator) -> tuple[tuple[Tensor, Tensor], ...]:
    """Return the policy before each update: the old one, then others. Off the mask stands what must not matter."""
    policies = [(paper.old, paper.entropy)]
    for _ in range(1, updates):
        logp = (paper.old + _step(paper.old.shape, 0.2, draw)).clamp_max(0.0)
        policies.append((logp, paper.entropy * (0.5 + _chance(paper.old.shape, draw))))
    junk = torch.where(paper.mask, 0.0, -7.0)
    return tuple((logp + junk, entropy - junk) for logp, entropy in policies)


def _chance(shape: int | tuple[int, ...], draw: torch.Generator) -> Tensor:
    return torch.rand(shape, generator=draw, dtype=torch.float64)


def _between(low: int, high: int, draw: torch.Generator) -> int:
    return int(torch.randint(low, high + 1, (1,), generator=draw))
