"""`summary.json`: a run in twenty numbers."""

from collections.abc import Sequence
from statistics import fmean
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict

from isentrope.report.facts import Evaluation, Facts
from isentrope.report.fit import WINDOW


class Summary(BaseModel):
    """The numbers of a run. None: unknown, because a part of the run has not happened yet or left no record."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    status: str | None
    """`finished`, `stopped` or `error`."""
    mode: str | None
    method: str | None
    seed: int | None
    batches: int
    reward_first: float | None
    """Mean of the first ten batches; `_last`: of the last ten."""
    reward_last: float | None
    entropy_first: float | None
    entropy_last: float | None
    """Nats."""
    pass_at_1_before: float | None
    """On held-out prompts."""
    pass_at_1_after: float | None
    groups_issued: int | None
    groups_published: int | None
    groups_trained: int | None
    groups_retired: int | None
    retired: dict[str, int]
    """Retired groups by reason."""
    tokens_trained: int
    max_token_lag: int | None
    """Batches."""
    logp_gap_first: float | None
    """Mean |logp_old - logp_rollout| of the first batch, nats."""
    seconds_total: float | None
    """Seconds of the newest command, from its start to the learner's end."""
    seconds_startup: float | None
    """Seconds of it until the first batch could be trained, the first evaluation included."""
    tokens_per_second: float | None
    """Trained tokens per second after start-up, without evaluations."""
    learner_idle_share: float | None
    """Share of that time in which the learner waited for groups."""
    versions: dict[str, str]


def summarise(facts: Facts) -> Summary:
    """Compute the summary of the facts."""
    run, outcome, batches = facts.run, facts.outcome, facts.batches
    rewards, entropies = [line.reward for line in batches], [line.entropy for line in batches]
    return Summary(
        status=outcome.status if outcome else None,
        mode=batches[-1].mode if batches else run.mode if run else None,
        method=run.method if run else None,
        seed=run.seed if run else None,
        batches=len(batches),
        reward_first=_mean(rewards[:WINDOW]),
        reward_last=_mean(rewards[-WINDOW:]),
        entropy_first=_mean(entropies[:WINDOW]),
        entropy_last=_mean(entropies[-WINDOW:]),
        pass_at_1_before=_pass_at_1(facts.before),
        pass_at_1_after=_pass_at_1(facts.after),
        groups_issued=outcome.issued if outcome else None,
        groups_published=outcome.published if outcome else None,
        groups_trained=outcome.trained if outcome else None,
        groups_retired=sum(outcome.retired.values()) if outcome else None,
        retired=outcome.retired if outcome else {},
        tokens_trained=sum(line.tokens for line in batches),
        max_token_lag=max((line.lag_max for line in batches), default=None),
        logp_gap_first=batches[0].logp_gap_mean if batches else None,
        **clocked(facts)._asdict(),
        versions=run.versions if run else {},
    )


class Clocked(NamedTuple):
    """The figures of `Summary` that are measured times."""

    seconds_total: float | None = None
    seconds_startup: float | None = None
    tokens_per_second: float | None = None
    learner_idle_share: float | None = None


def clocked(facts: Facts) -> Clocked:
    """Return the times of the newest command, without the batches of earlier commands of a resumed run."""
    if facts.run is None:
        return Clocked()
    started = facts.run.started
    mine = [line for line in facts.batches if line.time.at >= started]
    if not mine:
        return Clocked()
    first, last = mine[0].time, mine[-1].time
    ready = first.at - first.stats_s - first.update_s
    tail_s = facts.outcome.total_s - last.seconds_total if facts.outcome else 0.0
    training_s = last.at - ready - sum(line.time.evaluate_s for line in mine[1:])
    return Clocked(
        seconds_total=last.at + tail_s - started,
        seconds_startup=ready - started,
        tokens_per_second=sum(line.tokens for line in mine) / training_s,
        learner_idle_share=sum(line.time.wait_s for line in mine[1:]) / training_s,
    )


def _mean(values: Sequence[float]) -> float | None:
    return fmean(values) if values else None


def _pass_at_1(evaluation: Evaluation | None) -> float | None:
    return evaluation.pass_at.get(1) if evaluation else None
