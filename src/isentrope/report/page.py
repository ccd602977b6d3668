"""The report's page: records in, one self-contained HTML file out."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

import jinja2

from isentrope.learner.records import BatchRow, Summary
from isentrope.learner.training import alarms
from isentrope.report.by_name import held_out_rows, source_rows
from isentrope.report.charts import charts
from isentrope.report.contents import RunContents
from isentrope.report.recovery import sentences
from isentrope.report.responses import SHADE_FULL_AT, pairs
from isentrope.report.reward_table import reward_lines
from isentrope.report.windows import WINDOW, mean
from isentrope.report.words import duration, percent, several


@dataclass(frozen=True, slots=True)
class KeyFigure:
    """A number of the headline, and its value at the start."""

    name: str
    value: str
    before: str = ""


def render(contents: RunContents, summary: Summary) -> str:
    """Return the whole page."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("isentrope.report", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html").render(
        name=contents.run.run if contents.run else "run",
        settings=_settings(summary),
        headline=_headline(contents, summary),
        trouble=[*_trouble(contents), *contents.left_out, *alarms.sentences(summary.alarms)],
        tiles=list(_tiles(contents, summary)),
        charts=charts(contents),
        rewards=reward_lines(contents.batches),
        window=WINDOW,
        pairs=pairs(contents.samples),
        shade_full_at=SHADE_FULL_AT,
        rows=list(_rows(contents, summary)),
        versions=summary.versions,
        files=contents.settings,
    )


def _settings(summary: Summary) -> str:
    parts = [
        summary.method,
        summary.mode and summary.mode.replace("_", "-"),
        f"seed {summary.seed}" if summary.seed is not None else None,
        f"{summary.batches} batches",
        duration(summary.seconds_total) if summary.seconds_total is not None else None,
    ]
    return " · ".join(part for part in parts if part)


def _headline(contents: RunContents, summary: Summary) -> str:
    """Return the result in one or two sentences."""
    if summary.reward_first is None or summary.reward_last is None:
        return "No batch has been trained yet."
    reward = f"went from {summary.reward_first:.2f} to {summary.reward_last:.2f}"
    change = f"went from {summary.entropy_first:.2f} to {summary.entropy_last:.2f} nats"
    if summary.groups_of:
        return f"It trained groups of another run, whose reward {reward}. At their tokens, entropy {change}."
    if contents.run is not None and contents.run.only == "rollout":
        return f"Groups were made and kept, and nothing was trained. Their reward {reward}, entropy {change}."
    entropy = f"Entropy {change}."
    held_out = summary.reward_held_out_before, summary.reward_held_out_after
    if summary.pass_at_1_before is not None and summary.pass_at_1_after is not None:
        before, after = percent(summary.pass_at_1_before), percent(summary.pass_at_1_after)
        return f"Of answers to problems it never trained on, {before} were right before and {after} after. {entropy}"
    if held_out[0] is not None and held_out[1] is not None:
        was = f"was {held_out[0]:.2f} before and {held_out[1]:.2f} after"
        return f"The mean reward of answers to problems it never trained on {was}. {entropy}"
    return f"In training, the reward {reward}. {entropy}"


def _trouble(contents: RunContents) -> list[str]:
    """Return warnings that limit what the numbers mean; one line each."""
    outcome = contents.outcome
    if outcome is None:
        return ["The run has not ended, or was killed: this is how far its files go. The same command continues it."]
    if outcome.status == "stopped":
        return ["The run was stopped before its end. The same command continues it."]
    if outcome.status != "finished":
        return [line for line in (outcome.what, outcome.where, outcome.fix) if line]
    return []


def _tiles(contents: RunContents, summary: Summary) -> Iterator[KeyFigure]:
    before, after = contents.before, contents.after
    if after is not None and not after.pass_at:
        yield KeyFigure("held-out reward", f"{after.reward:.3f}", f"{before.reward:.3f}" if before else "")
    if after is not None:
        for k in sorted({1, max(after.pass_at, default=1)} & set(after.pass_at)):
            yield KeyFigure(
                f"held-out pass@{k}",
                f"{after.pass_at[k]:.3f}",
                f"{before.pass_at[k]:.3f}" if before and k in before.pass_at else "",
            )
    if summary.reward_last is not None and summary.entropy_last is not None:
        name = "reward of the groups" if summary.groups_of else "training reward"
        yield KeyFigure(name, f"{summary.reward_last:.3f}", f"{summary.reward_first:.3f}")
        yield KeyFigure("entropy, nats", f"{summary.entropy_last:.3f}", f"{summary.entropy_first:.3f}")
    if summary.tokens_per_second is not None:
        yield KeyFigure("tokens per second", f"{summary.tokens_per_second:,.0f}")
    if summary.max_token_lag is not None:
        yield KeyFigure("largest lag, batches", str(summary.max_token_lag))


def _rows(contents: RunContents, summary: Summary) -> Iterator[tuple[str, str]]:
    """Yield names and values of the table of run statistics."""
    if contents.run is not None:
        yield "started", f"{datetime.fromtimestamp(contents.run.started, UTC):%Y-%m-%d %H:%M} UTC"
        ranks = ", then ".join(several(count, "learner rank") for count in summary.ranks or [contents.run.ranks])
        actors = "no rollout actors" if contents.run.groups_of else several(contents.run.actors, "rollout actor")
        yield "processes", f"{actors}, {ranks}"
        if contents.run.only == "rollout":
            yield "weights", "as the model's: groups were made and kept, and not trained"
        if contents.run.groups_of:
            yield "groups", f"kept by the run in {contents.run.groups_of}"
        if contents.run.correct:
            yield "an answer is right if", contents.run.correct
    if summary.seconds_total is not None:
        startup = f", of which {duration(summary.seconds_startup)} start-up" if summary.seconds_startup else ""
        yield "duration", duration(summary.seconds_total) + startup
    if summary.groups_issued is not None and not summary.groups_of:
        reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(summary.retired.items()) if count)
        retired = f"{summary.groups_retired:,} retired" + (f" ({reasons})" if reasons else "")
        yield "groups", f"{summary.groups_issued:,} issued = {summary.groups_trained:,} trained + {retired}"
    if summary.recovery is not None and (told := list(sentences(summary.recovery))):
        yield "faults outlived", "; ".join(told)
    yield from held_out_rows(contents)
    if not contents.batches:
        return
    yield "tokens trained", f"{summary.tokens_trained:,}"
    yield "learner's time", _shares(contents.batches)
    low = mean(line.clip_low for line in contents.batches)
    high = mean(line.clip_high for line in contents.batches)
    yield "tokens clipped", f"{percent(low)} at the low bound, {percent(high)} at the high one"
    yield from source_rows(contents.batches)
    first = contents.batches[0]
    if explained := [each for line in contents.batches if (each := line.objective.explained_variance) is not None]:
        last, begun = mean(explained[-WINDOW:]), mean(explained[:WINDOW])
        yield "critic", f"explains {last:.2f} of the variance of the rewards to come at the end, {begun:.2f} at first"
    gap = f"differ by {first.logp_gap_mean:.1e} nats on average in the first batch, by {first.logp_gap_max:.1e} at most"
    yield "log-prob, engine against learner", gap


def _shares(batches: tuple[BatchRow, ...]) -> str:
    """Return the shares of the learner's time after the first batch, whose wait is the start-up of other processes."""
    parts = {
        "waiting for groups": [line.time.wait_s for line in batches[1:]],
        "statistics": [line.time.stats_s for line in batches[1:]],
        "updates": [line.time.update_s for line in batches[1:]],
        "weights": [line.time.publish_s for line in batches[1:]],
        "evaluations": [line.time.evaluate_s for line in batches[1:]],
        "checkpoints": [line.time.checkpoint_s for line in batches[1:]],
    }
    total = sum(map(sum, parts.values()))
    if not total:
        return "not recorded"
    return ", ".join(f"{name} {percent(sum(seconds) / total, 0)}" for name, seconds in parts.items())
