"""Facts that the feeder is told at its start, and those that it tells the training loop: what a checkpoint holds of the
intake, and the progress of the run."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from isentrope.learner.intake.admission import AdmissionRules
from isentrope.learner.intake.ledger import LedgerState
from isentrope.learner.intake.outcomes import Tally
from isentrope.rollout.broker.learner_state import LearnerState
from isentrope.rollout.wire.control import Mode


@dataclass(frozen=True, slots=True)
class FeederOptions:
    """Facts of the run that the feeder needs, besides its `RunSpec`."""

    batches: int
    """Batches of the whole run; no more groups are issued than they and the replacements need."""
    rules: AdmissionRules
    mode: Mode
    """Mode at the start."""
    newest_claim: Callable[[], int]
    """Reads the newest incarnation claimed on the checkpoint storage."""
    state: Callable[[], LearnerState] = LearnerState
    """Tells what the ranks do, for the learner's heartbeat."""
    admit_s: float = 0.2
    """Time for which a round of the feeder waits for groups."""
    reconcile_after_s: float = 60.0
    """Time without progress, or with the same low watermark, after which lost groups are searched for."""


@dataclass(frozen=True, slots=True)
class CommitFacts:
    """The intake's part of a checkpoint, and the entries to delete once it is durable. Taken at one moment."""

    ledger: LedgerState
    lwm: int
    entries: tuple[str, ...]
    plans: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class FeederStatus:
    """Progress of the run at one moment."""

    ready: int
    """Complete groups that wait for training."""
    issued: int
    trained: int
    retired: dict[str, int]
    """Retired groups by reason."""
    failed: dict[str, Counter[int]]
    """Responses that failed since this learner began, by kind and by `length_bucket`."""
    retired_whole: dict[str, Counter[int]]
    """Responses of the groups that came and were retired since this learner began, by reason and length."""
    idle_s: float
    """Seconds the training loop waited for batches."""
    quiet_s: float
    """Seconds since a group came in or a batch was trained."""
    replaced: Tally
    """Responses of all groups that this learner replaced for their outcome."""
