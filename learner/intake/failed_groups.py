"""Entries of groups that were not made whole: the reason that each is retired for, which is logged too."""

import logging
from collections import Counter
from collections.abc import Sequence

from isentrope.errors import RecordError
from isentrope.learner.intake.retirement import FAILURES, INVALID, Retired, detail_of
from isentrope.rollout.broker.learner_port import Entry
from isentrope.rollout.wire.types import Missing

logger = logging.getLogger(__name__)


def given_up(entry: Entry) -> Retired:
    """Return what a `tombstone` says."""
    detail = f"{detail_of(entry.detail)}, by {detail_of(entry.actor)}"
    group = Retired(entry.seq, entry.reason if entry.reason in FAILURES else INVALID, detail, entry.actor)
    logger.warning("seq %d abandoned (%s): %s", entry.seq, group.reason, detail)
    return group


def invalid(entry: Entry, error: RecordError) -> Retired:
    """Return what is wrong with a record."""
    detail = f"{detail_of(f'{error.what} ({error.where})')}, by {detail_of(entry.actor)}"
    logger.warning("group %d is invalid: %s", entry.seq, detail)
    return Retired(entry.seq, INVALID, detail, entry.actor)


def too_small(entry: Entry, missing: Sequence[Missing]) -> Retired:
    """Return what most of the missing responses of a group failed by."""
    (commonest, count), *_ = Counter(each.reason for each in missing).most_common(1)
    detail = detail_of(f"{count} of its responses failed, by {entry.actor}")
    logger.warning("group %d is too small (%s): %s", entry.seq, commonest.word, detail)
    return Retired(entry.seq, commonest.word, detail, entry.actor)
