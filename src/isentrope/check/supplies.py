"""Needs of a method that depend on what the run file says of data and model."""

from typing import TYPE_CHECKING

from isentrope.config import Config
from isentrope.rollout.rewards.correctness import NOTHING, reward_names

if TYPE_CHECKING:
    from isentrope.learner.objective.needs import Need


def lacking(config: Config) -> "frozenset[Need]":
    """Return the needs that a run with this configuration cannot supply."""
    from isentrope.learner.objective.needs import Need  # loads torch

    lacks = {
        Need.TEACHER: not config.model.reference,
        Need.DEMONSTRATIONS: not config.data.demonstration,
        Need.CORRECTNESS: config.data.correct == NOTHING,
        Need.SAMPLING_MASK: not config.sampling.truncates,
        Need.REWARDS: len(reward_names(config.data)) < 2,
    }
    return frozenset(need for need, absent in lacks.items() if absent)
