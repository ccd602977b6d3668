"""Resets: when to make the current policy the reference, by the scores of evaluations."""

from collections.abc import Mapping

from isentrope.learner.objective.schema import Count, NonNegative


def never(state: Mapping[str, float], score: float, batch: int) -> dict[str, float]:
    """No reset, and nothing to remember."""
    return {}


def on_stagnation(
    state: Mapping[str, float],
    score: float,
    batch: int,
    *,
    patience: Count = 3,
    min_gain: NonNegative = 0.0,
    cooldown: int = 50,
) -> dict[str, float]:
    """Resets after `patience` evaluations in a row without a new best score by more than `min_gain`, at least
    `cooldown` batches after the last reset; state "reset" is then 1.

    "ProRL" by Liu et al. (https://arxiv.org/abs/2505.24864) resets reference and optimizer when validation stagnates,
    in words only; the rule is ours. The score is pass@1, or the mean reward where rewards are graded.

    Args:
        patience: evaluations in a row without a new best. Too few take chance for stagnation; too many train on without
            a gain.
        min_gain: gain in score that counts as a new best. Too high resets a policy that still improves.
        cooldown: batches between two resets, at least.
    """
    best = state.get("best", float("-inf"))
    improved = score > best + min_gain
    waited = 0.0 if improved else state.get("waited", 0.0) + 1
    last = state.get("last", float(-cooldown))
    reset = waited >= patience and batch - last >= cooldown
    return {
        "best": max(best, score),
        "waited": 0.0 if reset else waited,
        "last": float(batch) if reset else last,
        "reset": float(reset),
    }
