"""Values of the single reward functions over some responses."""

from collections.abc import Iterable, Sequence
from statistics import fmean, pstdev

from isentrope.learner.measures import FunctionReward
from isentrope.rollout.wire.types import Response


def function_rewards(names: Iterable[str], responses: Sequence[Response]) -> dict[str, FunctionReward]:
    """Return the figures of the functions `names`, and of every component that a response has, by name."""
    known = dict.fromkeys((*names, *sorted({part for response in responses for part in response.reward_parts})))
    return {name: _figures([response.reward_parts.get(name) for response in responses]) for name in known}


def _figures(values: Sequence[float | None]) -> FunctionReward:
    given = [value for value in values if value is not None]
    return FunctionReward(
        mean=fmean(given) if given else None,
        std=pstdev(given) if given else None,
        missing=1 - len(given) / len(values) if values else 0.0,
    )
