"""Admission of groups to training: the rules of the run, and whose tokens a group has."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np

from isentrope.learner.intake.outcomes import ANY_DIFFERENCE, OutcomeRule
from isentrope.learner.intake.retirement import MAX_BATCHES, MIN_PASS_BATCHES, RetirementLimits
from isentrope.learner.intake.run_check import RunCheck
from isentrope.rollout.wire.types import Group, batch_of


@dataclass(frozen=True, slots=True)
class AdmissionRules:
    """Rules by which groups are not trained; lags are in batches."""

    token_max_lag: int
    """`async`: tokens with a larger lag are masked."""
    min_kept: float
    """A group with a smaller share of its tokens left is stale."""
    max_replaced: int = 0
    """Maximum number of groups of one outcome replaced per batch; further ones are trained."""
    outcome: OutcomeRule = ANY_DIFFERENCE
    check: RunCheck | None = None
    """Comparison of groups with the run's orders; None: they are compared with nothing."""
    data_rows: int | None = None
    """Prompts of one pass over the data; None: they never end."""

    def retirement_limits(self, prompts_per_batch: int) -> RetirementLimits:
        """Return the numbers of retired groups that end a run; `MAX_BATCHES` and `MIN_PASS_BATCHES` say why."""
        most = MAX_BATCHES * prompts_per_batch
        rows = most if self.data_rows is None else min(self.data_rows, most)
        return RetirementLimits(
            between_batches=most + (self.token_max_lag + 1) * prompts_per_batch + self.max_replaced,
            failed=max(rows, MIN_PASS_BATCHES * prompts_per_batch),
        )


@dataclass(frozen=True, slots=True)
class Held:
    """Facts of a group that is here, besides its record."""

    entry: str
    tokens: Mapping[int, int]
    """By version: trainable tokens that it generated (without those of tools and environment)."""

    @classmethod
    def of(cls, entry: str, group: Group) -> Self:
        """Return the facts of the group that came in `entry`."""
        tokens: Counter[int] = Counter()
        for response in group.responses:
            versions = response.versions()
            for version in np.unique(versions):
                tokens[int(version)] += int(response.mask[versions == version].sum())
        return cls(entry, dict(tokens))

    def is_made_by(self, version: int) -> bool:
        """Return True if every token is of exactly this version."""
        return self.tokens.keys() == {version}

    def is_stale(self, batches: int, rules: AdmissionRules) -> bool:
        """Return True if, after this number of batches, too small a share of the tokens is young enough."""
        kept = sum(
            count for version, count in self.tokens.items() if batches - batch_of(version) <= rules.token_max_lag
        )
        return kept < rules.min_kept * sum(self.tokens.values())
