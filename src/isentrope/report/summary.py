"""`summary.json`: a run in a few numbers."""

from collections.abc import Sequence
from itertools import groupby
from statistics import median
from typing import Any, NamedTuple

from isentrope.learner.records import BatchRow, EvalRow, Summary
from isentrope.learner.training.alarms import figures
from isentrope.report.contents import RunContents
from isentrope.report.recovery import recovery
from isentrope.report.windows import WINDOW, mean


def summarise(contents: RunContents) -> Summary:
    """Return the summary of what a run left."""
    run, outcome, batches = contents.run, contents.outcome, contents.batches
    clock = clocked(contents)
    rewards, entropies = [line.reward for line in batches], [line.entropy for line in batches]
    return Summary(
        status=outcome.status if outcome else None,
        mode=batches[-1].mode if batches else run.mode if run else None,
        method=run.method if run else None,
        seed=run.seed if run else None,
        groups_of=run.groups_of if run else None,
        batches=len(batches),
        reward_first=_mean(rewards[:WINDOW]),
        reward_last=_mean(rewards[-WINDOW:]),
        entropy_first=_mean(entropies[:WINDOW]),
        entropy_last=_mean(entropies[-WINDOW:]),
        entropy_law=contents.law,
        pass_at_1_before=_pass_at_1(contents.before),
        pass_at_1_after=_pass_at_1(contents.after),
        reward_held_out_before=contents.before.reward if contents.before else None,
        reward_held_out_after=contents.after.reward if contents.after else None,
        groups_issued=outcome.issued if outcome else None,
        groups_published=outcome.published if outcome else None,
        groups_trained=outcome.trained if outcome else None,
        groups_retired=sum(outcome.retired.values()) if outcome else None,
        retired=outcome.retired if outcome else {},
        tokens_trained=sum(line.tokens for line in batches),
        ranks=[ranks for ranks, _ in groupby(line.process.ranks for line in batches) if ranks is not None],
        max_token_lag=max((line.lag_max for line in batches), default=None),
        logp_gap_first=batches[0].logp_gap_mean if batches else None,
        alarms=figures(batches),
        **proven(batches),
        **clock._asdict(),
        recovery=None if run is None else recovery(contents, run.started, clock.seconds_startup, clock.seconds_total),
        versions=run.versions if run else {},
    )


def proven(batches: Sequence[BatchRow]) -> dict[str, Any]:
    """Return the figures about what actors have served."""
    served = [line.process.served for line in batches if line.process.served is not None]
    return {
        "versions_proven": len({each.version for each in served}),
        "versions_refused": max((each.refused for each in served), default=0),
        "canary_gap_mean": max((each.gap_mean for each in served if each.gap_mean is not None), default=None),
        "canary_gap_max": max((each.gap_max for each in served if each.gap_max is not None), default=None),
        "canary_seconds": median(each.seconds for each in served) if served else None,
    }


class Clocked(NamedTuple):
    """The figures of `Summary` that are measured times."""

    seconds_total: float | None = None
    seconds_startup: float | None = None
    tokens_per_second: float | None = None
    learner_idle_share: float | None = None


def clocked(contents: RunContents) -> Clocked:
    """Return the times of the newest command, without the batches of earlier commands of a resumed run."""
    if contents.run is None:
        return Clocked()
    started = contents.run.started
    mine = [line for line in contents.batches if line.time.at >= started]
    if not mine:
        return Clocked()
    first, last = mine[0].time, mine[-1].time
    ready = first.at - first.stats_s - first.update_s
    tail_s = contents.outcome.total_s - last.seconds_total if contents.outcome else 0.0
    training_s = last.at - ready - sum(line.time.evaluate_s for line in mine[1:])
    return Clocked(
        seconds_total=last.at + tail_s - started,
        seconds_startup=ready - started,
        tokens_per_second=sum(line.tokens for line in mine) / training_s,
        learner_idle_share=sum(line.time.wait_s for line in mine[1:]) / training_s,
    )


def _mean(values: Sequence[float]) -> float | None:
    return mean(values) if values else None


def _pass_at_1(evaluation: EvalRow | None) -> float | None:
    return evaluation.pass_at.get(1) if evaluation else None
