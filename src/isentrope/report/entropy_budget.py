"""The entropy budget of a run: predicted changes of entropy added up by kind of token, and how far they hold.

A prediction is of a step of size 1, which an optimizer does not take, so one scale is fitted: on the first half of the
batches at which the change was measured too. The second half says how good it is.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from isentrope.learner.records import BatchRow

KINDS = {
    "positive_likely": "rewarded, likely",
    "positive_rare": "rewarded, rare",
    "negative_likely": "punished, likely",
    "negative_rare": "punished, rare",
}
"""Kinds of tokens by their keys of `objective.entropy_budget`."""
FEWEST = 4
"""Measured batches with which a scale is fitted, and judged by as many as are left."""


@dataclass(frozen=True, slots=True)
class Held:
    """Sums over the measured batches of the second half, nats: as predicted with the scale and without, as measured.
    same_sign: share of these batches whose change had the predicted sign."""

    predicted: float
    unscaled: float
    measured: float
    same_sign: float
    batches: int


@dataclass(frozen=True, slots=True)
class Budget:
    """Changes of entropy by kind of token, over the batches of a run. kinds: by kind, the change up to each batch with
    the scale, nats; measured: batch and change up to it, each measurement standing for all batches since the one
    before."""

    batches: tuple[int, ...]
    kinds: Mapping[str, tuple[float, ...]]
    measured: tuple[tuple[int, float], ...]
    scale: float
    held: Held

    @property
    def total(self) -> tuple[float, ...]:
        """The sum over the kinds, up to each batch."""
        return tuple(np.sum(list(self.kinds.values()), axis=0).tolist())


def budget_of(batches: Sequence[BatchRow]) -> Budget | None:
    """Return the budget of a run; None if too few changes were measured, or none predicted."""
    rows = [(line, budget) for line in batches if (budget := line.objective.entropy_budget) is not None]
    both = [
        (line.batch, sum(budget.values()), line.objective.entropy_change)
        for line, budget in rows
        if line.objective.entropy_change is not None
    ]
    half = len(both) // 2
    if len(both) < FEWEST or not any(predicted for _, predicted, _ in both[:half]):
        return None
    at, predicted, measured = (np.array(column) for column in zip(*both, strict=True))
    scale = float(predicted[:half] @ measured[:half] / (predicted[:half] @ predicted[:half]))
    since = np.diff(at, prepend=batches[0].batch - 1)
    held = Held(
        predicted=scale * float(predicted[half:].sum()),
        unscaled=float(predicted[half:].sum()),
        measured=float(measured[half:].sum()),
        same_sign=float((np.sign(scale * predicted[half:]) == np.sign(measured[half:])).mean()),
        batches=len(both) - half,
    )
    return Budget(
        batches=tuple(line.batch for line, _ in rows),
        kinds={
            kind: tuple((scale * np.cumsum([budget.get(kind, 0.0) for _, budget in rows])).tolist()) for kind in KINDS
        },
        measured=tuple(zip(at.tolist(), np.cumsum(measured * since).tolist(), strict=True)),
        scale=scale,
        held=held,
    )


def text(budget: Budget) -> str:
    """Return what moved the entropy, and how far to believe it."""
    ends = sorted(((values[-1], kind) for kind, values in budget.kinds.items()), key=lambda end: -abs(end[0]))
    most = ", ".join(f"{KINDS[kind]} tokens {_signed(value)}" for value, kind in ends)
    held = budget.held
    return (
        f"Change that the policy term made of the entropy at its own tokens, by first order, nats: {most}; together"
        f" {_signed(budget.total[-1])}. The scale of a step is fitted on the first half of the measured batches. In the"
        f" {held.batches} of the second half it predicts {_signed(held.predicted)} where {_signed(held.measured)} was"
        f" measured ({_signed(held.unscaled)} without the scale), with the right sign in {held.same_sign:.0%}."
        " A token is likely if its probability is above one half, else rare; rewarded if its advantage is positive."
    )


def _signed(value: float) -> str:
    return f"{value:+.3g}".replace("-", "\u2212")
