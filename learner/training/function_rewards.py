"""Values of the single reward functions over some responses."""

import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from statistics import fmean, pstdev

from isentrope.learner.measures import FunctionReward
from isentrope.rollout.config import DataConfig
from isentrope.rollout.rewards.correctness import reward_names
from isentrope.rollout.wire.types import Group, Response

MAX_PARTS = 256
"""Most functions and components of one line: records may name others in every response."""

logger = logging.getLogger(__name__)


def function_rewards(names: Iterable[str], responses: Sequence[Response]) -> dict[str, FunctionReward]:
    """Return the figures of the functions `names`, and of every component that a response has, by name.

    Of more than `MAX_PARTS` parts, those are left out that the fewest responses have.
    """
    counts = Counter(part for response in responses for part in response.reward_parts)
    found = sorted(counts, key=lambda part: (-counts[part], part))
    if len(found) > MAX_PARTS:
        logger.warning("%d parts of rewards, of which %d are not recorded", len(found), len(found) - MAX_PARTS)
    known = dict.fromkeys((*names, *sorted(found[:MAX_PARTS])))
    return {name: _figures([response.reward_parts.get(name) for response in responses]) for name in known}


def of_groups(data: DataConfig, groups: Iterable[Group]) -> dict[str, FunctionReward]:
    """Return the figures of the run's functions over the responses of a batch."""
    return function_rewards(reward_names(data), [response for group in groups for response in group.responses])


def _figures(values: Sequence[float | None]) -> FunctionReward:
    given = [value for value in values if value is not None]
    return FunctionReward(
        mean=fmean(given) if given else None,
        std=pstdev(given) if given else None,
        missing=1 - len(given) / len(values) if values else 0.0,
    )
