"""Facts of a run that the rules need, and the one place that takes them from a configuration."""

from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from isentrope.learner.config import LearnerConfig
from isentrope.learner.objective.needs import PROVIDED, Need
from isentrope.rollout.config import SamplingConfig


@dataclass(frozen=True, slots=True)
class RunFacts:
    """The run that an objective is judged for."""

    updates: int = 1
    """Optimizer updates in one pass over a batch."""
    epochs: int = 1
    """Passes over a batch."""
    on_policy: bool = False
    max_lag: int = 2
    """Largest age of a token that is trained, in batches."""
    group_size: int = 8
    whole_groups: bool = True
    """A group is trained only if no response of it is missing."""
    tokens: int | None = None
    """Tokens of a batch whose responses are all as long as they may be; None: not known."""
    evaluates: bool = True
    """There is held-out data, scored at intervals."""
    truncates: bool = False
    """Tokens are chosen among the likeliest alone."""
    provided: frozenset[Need] = PROVIDED
    """Needs that the run supplies."""

    @property
    def single(self) -> bool:
        """True if the only update of a batch starts from the policy that log p_old is of: log p equals it."""
        return self.on_policy or self.updates * self.epochs == 1


def run_facts(
    learner: LearnerConfig,
    sampling: SamplingConfig,
    *,
    mode: str,
    evaluates: bool,
    lacks: AbstractSet[Need] = frozenset(),
) -> RunFacts:
    """Return the facts of a run with this configuration.

    Args:
        learner: as configured; what `mode` fixes is taken from there.
        sampling: as configured.
        mode: the mode to judge, which need not be the one that the run begins in.
        evaluates: there is held-out data, scored at intervals.
        lacks: needs that it cannot supply.
    """
    learner = learner.in_mode(mode)
    return RunFacts(
        updates=learner.updates_per_batch,
        epochs=learner.epochs,
        on_policy=learner.mode == "on_policy",
        max_lag=min(learner.staleness.max_lag, learner.staleness.oldest_token),
        group_size=sampling.group_size,
        whole_groups=sampling.min_group >= sampling.group_size,
        tokens=learner.prompts_per_batch * sampling.group_size * sampling.max_new_tokens,
        evaluates=evaluates,
        truncates=sampling.truncates,
        provided=PROVIDED - lacks,
    )
