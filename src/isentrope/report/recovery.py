"""Faults that a command has outlived, and what they cost."""

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise
from statistics import median

from isentrope.learner.outage_record import OutageRow, Recovery
from isentrope.learner.records import BatchRow
from isentrope.report.contents import RunContents
from isentrope.report.words import duration, percent, several

ROLES = ("learner", "broker", "actor")
"""In the order in which a moment that several of them have lost counts as that of one."""


def recovery(contents: RunContents, started: float, startup_s: float | None, total_s: float | None) -> Recovery:
    """Return the figures of the newest command.

    Args:
        contents: what the run left.
        started: time of the command's start, seconds of Unix time.
        startup_s: seconds until its first batch could be trained; None: none was.
        total_s: seconds until its end; None as before.
    """
    outages = [each for each in contents.outages if each.began >= started]
    lost = seconds_lost(outages, [row for row in contents.batches if row.time.at >= started])
    ettr = None
    if startup_s is not None and total_s is not None:
        # The batches before the first checkpoint leave no lines when a learner is lost.
        ready = min([started + startup_s, *(each.began for each in outages if each.role == "learner")])
        ettr = max(0.0, 1 - sum(lost.values()) / max(started + total_s - ready, 1e-9))
    return Recovery(
        restarts=dict(Counter(each.role for each in outages)),
        batches_again=sum(each.batches for each in outages),
        groups_again=contents.outcome.again if contents.outcome else None,
        seconds_lost=lost,
        ettr=ettr,
    )


def seconds_lost(outages: Sequence[OutageRow], batches: Sequence[BatchRow]) -> dict[str, float]:
    """Return the seconds without progress, by role; no moment counts twice."""
    learner = [each for each in outages if each.role == "learner"]
    lost = {"learner": sum(each.ended - each.began for each in learner)} if learner else {}
    usual = median([row.time.wait_s for row in batches]) if batches else 0.0
    for before, row in pairwise(batches):
        span = before.time.at, row.time.at
        if any(_overlap(each, *span) for each in learner):
            continue
        for role in ROLES[1:]:
            away = sum(_overlap(each, *span) for each in outages if each.role == role)
            if away:
                lost[role] = lost.get(role, 0.0) + max(0.0, min(row.time.wait_s, away) - usual)
                break
    return lost


def sentences(found: Recovery) -> Iterator[str]:
    """Yield what the report says of each role, and of the whole."""
    for role in ROLES:
        if count := found.restarts.get(role):
            yield f"{several(count, role)} lost, {duration(found.seconds_lost.get(role, 0.0))}"
    if found.batches_again:
        yield f"{found.batches_again:,} {'batch' if found.batches_again == 1 else 'batches'} trained again"
    if found.groups_again:
        yield f"{several(found.groups_again, 'order')} given out again"
    if found.restarts and found.ettr is not None:
        yield f"{percent(found.ettr)} of the time was useful"


def _overlap(outage: OutageRow, began: float, ended: float) -> float:
    return max(0.0, min(outage.ended, ended) - max(outage.began, began))
