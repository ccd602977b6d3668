"""Responses that were asked for and did not train: how many since the line of metrics before, why, and how long they
are."""

from collections import Counter
from collections.abc import Mapping
from typing import TypeVar

import numpy as np

from isentrope.learner.intake.intake_facts import FeederStatus
from isentrope.learner.intake.ragged import RaggedBatch, places_of
from isentrope.learner.intake.retirement import length_bucket
from isentrope.learner.measures import Untrained
from isentrope.learner.training.trainer import BatchFacts
from isentrope.rollout.wire.types import Int64

Key = TypeVar("Key", str, int)
Lengths = Mapping[str, Mapping[int, int]]


class UntrainedCounts:
    """Counts so far, of which a line tells the increase."""

    def __init__(self) -> None:
        """Start from nothing."""
        self._groups: Mapping[str, int] = {}
        self._failed: Lengths = {}
        self._retired: Lengths = {}

    def start(self, intake: FeederStatus) -> None:
        """Start from `intake`, so that what a resumed learner read again is in no line."""
        self._groups, self._failed, self._retired = intake.retired, intake.failed, intake.retired_whole

    def since(self, intake: FeederStatus, ragged: RaggedBatch, facts: BatchFacts) -> Untrained:
        """Return the counts since the last call, with those of the batch that was trained meanwhile."""
        groups, failed, retired = self._groups, self._failed, self._retired
        self.start(intake)
        masked = np.unique(places_of(ragged.length)[0][~ragged.mask])
        before, after = facts.batch.mask.any(1) & facts.batch.sampled, facts.prepared.mask.any(1)
        return Untrained(
            groups=_increase(self._groups, groups),
            failed=_increases(self._failed, failed),
            retired=_increases(self._retired, retired),
            masked=_buckets(ragged.length[masked]),
            filtered=_buckets(facts.batch.length[before & ~after].numpy()),
        )


def _buckets(lengths: Int64) -> dict[int, int]:
    return dict(sorted(Counter(map(length_bucket, lengths.tolist())).items()))


def _increases(now: Lengths, before: Lengths) -> dict[str, dict[int, int]]:
    found = {word: _increase(now[word], before.get(word, {})) for word in sorted(now)}
    return {word: counts for word, counts in found.items() if counts}


def _increase(now: Mapping[Key, int], before: Mapping[Key, int]) -> dict[Key, int]:
    new = Counter(now)
    new.subtract(before)
    return dict(sorted((key, count) for key, count in new.items() if count > 0))  # a requeue takes some back
