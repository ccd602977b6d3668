"""The page of a comparison, one self-contained HTML file, and the same facts as JSON."""

from collections.abc import Sequence
from statistics import fmean
from typing import Any

import jinja2

from isentrope.comparison import figures
from isentrope.comparison.arms import Arm, Comparison, Pair
from isentrope.comparison.bootstrap import Difference
from isentrope.report.charts import Chart
from isentrope.report.words import duration

METHOD = (
    "Differences are of {measure} at the last evaluation, first method minus second, with 95 % intervals by a"
    " bootstrap over held-out prompts, drawn for both alike, and over seeds. Lines are means over seeds, bands reach"
    " from the least to the largest; batches are smoothed over ten."
)


UNKNOWN = "?"


def render(comparison: Comparison) -> str:
    """Return the whole page."""
    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader(
            [jinja2.PackageLoader("isentrope.comparison", "."), jinja2.PackageLoader("isentrope.report", ".")]
        ),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("comparison.html").render(
        names=[arm.name for arm in comparison.arms],
        verdict_labels=["method", "is", "compared with", f"difference of {comparison.measure}", "95 % interval"],
        pairs=[_verdict(pair) for pair in comparison.pairs],
        apart=[sentence(pair, comparison.measure) for pair in comparison.pairs if pair.difference is None],
        notes=comparison.notes,
        charts=_charts(comparison.arms),
        rows=[_row(arm) for arm in comparison.arms],
        method_labels=[
            "method",
            "seeds",
            f"held-out {comparison.measure}",
            "entropy, nats",
            "trained tokens",
            "duration",
        ],
        method=METHOD.format(measure=comparison.measure),
    )


def facts(comparison: Comparison) -> dict[str, Any]:
    """Return what the page says, as JSON."""
    return {
        "measure": comparison.measure,
        "methods": [
            {
                "name": arm.name,
                "runs": [str(run.folder) for run in arm.runs],
                "seeds": list(arm.seeds),
                **{name: _mean(values) for name, values in _values(arm).items()},
                "pass_at": _pass_at(arm),
            }
            for arm in comparison.arms
        ],
        "pairs": [_pair(pair) for pair in comparison.pairs],
        "notes": list(comparison.notes),
    }


def sentence(pair: Pair, measure: str) -> str:
    """Return the verdict of a pair."""
    if pair.difference is None:
        return f"{pair.first} and {pair.second} are not compared: {pair.why_not}."
    found, than = pair.difference, "from" if pair.difference.verdict == "not distinguishable" else "than"
    return f"{pair.first} is {found.verdict} {than} {pair.second}: {measure} {interval(found)}."


def interval(found: Difference) -> str:
    """Return a difference and its interval as text."""
    text = f"{found.mean:+.3f} [{found.low:+.3f}, {found.high:+.3f}]"
    return text.replace("-", "\u2212")


def _verdict(pair: Pair) -> list[str]:
    """Return the row of a pair; its labels are in `render`."""
    found = pair.difference
    if found is None:
        return [pair.first, "not compared", pair.second, "", ""]
    ends = interval(found).partition(" ")[2].strip("[]")
    return [pair.first, found.verdict, pair.second, interval(found).partition(" ")[0], ends.replace(", ", " to ")]


def _pair(pair: Pair) -> dict[str, Any]:
    told: dict[str, Any] = {"first": pair.first, "second": pair.second}
    if pair.difference is None:
        return told | {"verdict": None, "why_not": pair.why_not}
    found = pair.difference
    ends = {"difference": found.mean, "low": found.low, "high": found.high, "same_seeds": pair.paired}
    return told | {"verdict": found.verdict} | ends


def _charts(arms: Sequence[Arm]) -> list[Chart]:
    drawn = [arm for arm in arms if all(run.contents.batches for run in arm.runs)]
    if not drawn:
        return []
    charts = [
        Chart("Reward", figures.curves(drawn, "reward", "reward in training", lambda row: row.reward), ""),
        Chart("Entropy", figures.curves(drawn, "entropy", "entropy of a token, nats", lambda row: row.entropy), ""),
        Chart("Reward over entropy", figures.exchange(drawn), ""),
    ]
    if any(_pass_at(arm) for arm in drawn):
        charts.append(Chart("Tries", figures.tries(drawn), ""))
    return charts


def _values(arm: Arm) -> dict[str, list[float | None]]:
    """Return the numbers of each run that the table shows means of."""
    found = [run.summary for run in arm.runs]
    graded = [summary.pass_at_1_after is None for summary in found]
    return {
        "before": [s.reward_held_out_before if g else s.pass_at_1_before for s, g in zip(found, graded, strict=True)],
        "after": [s.reward_held_out_after if g else s.pass_at_1_after for s, g in zip(found, graded, strict=True)],
        "entropy_first": [summary.entropy_first for summary in found],
        "entropy_last": [summary.entropy_last for summary in found],
        "tokens": [summary.tokens_trained for summary in found],
        "seconds": [summary.seconds_total for summary in found],
    }


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def _pass_at(arm: Arm) -> dict[int, float]:
    """Return pass@k after training, mean over seeds, for each k of all of them."""
    rows = [run.contents.after.pass_at for run in arm.runs if run.contents.after is not None]
    ks = sorted(set.intersection(*(set(row) for row in rows))) if rows else []
    return {k: fmean(row[k] for row in rows) for k in ks}


def _row(arm: Arm) -> list[str]:
    means = {name: _mean(values) for name, values in _values(arm).items()}

    def shown(name: str) -> str:
        value = means[name]
        return UNKNOWN if value is None else f"{value:.3f}"

    tokens, seconds = means["tokens"], means["seconds"]
    return [
        arm.name,
        ", ".join(map(str, arm.seeds)),
        f"{shown('before')} → {shown('after')}",
        f"{shown('entropy_first')} → {shown('entropy_last')}",
        UNKNOWN if tokens is None else f"{tokens:,.0f}",
        UNKNOWN if seconds is None else duration(seconds),
    ]
