"""The settings a learner rank is started with. Importing it loads nothing heavy."""

from dataclasses import dataclass, field

from isentrope.learner.config import LearnerConfig
from isentrope.rollout.config import WeightsConfig
from isentrope.rollout.wire.spec import RunSpec


@dataclass(frozen=True, slots=True)
class LearnerJob:
    """One run, the same for every rank; only rank 0 uses the broker.

    url: the broker's, which may hold a password and is therefore not shown. insecure: allow a server on another host
    without one.
    """

    spec: RunSpec
    config: LearnerConfig
    weights: WeightsConfig
    url: str = field(repr=False)
    insecure: bool = False
