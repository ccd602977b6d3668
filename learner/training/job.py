"""The settings a learner rank is started with. Importing it loads nothing heavy."""

from dataclasses import dataclass, field

from isentrope.learner.config import LearnerConfig
from isentrope.rollout.broker.connection import Broker
from isentrope.rollout.config import WeightsConfig
from isentrope.rollout.wire.spec import RunSpec


@dataclass(frozen=True, slots=True)
class LearnerJob:
    """One run, the same for every rank; only rank 0 uses the broker.

    url: the broker's, which may hold a password and is therefore not shown. insecure: allow a server on another host
    without one. here: the facts with paths of this machine; None: those of `spec`, which the run announces. trains:
    False: groups are made and kept, and the weights stay as they are.
    """

    spec: RunSpec
    config: LearnerConfig
    weights: WeightsConfig
    url: str = field(repr=False)
    insecure: bool = False
    here: RunSpec | None = None
    trains: bool = True

    @property
    def local(self) -> RunSpec:
        """The run's facts, whose paths are those of this machine."""
        return self.here or self.spec

    def connect(self) -> Broker:
        """Return a connection to the broker, which is waited for as long as the run wants."""
        deadline_s = self.spec.broker_timeout_s
        return Broker.connect(self.url, self.spec.run, deadline_s=deadline_s, insecure=self.insecure)
