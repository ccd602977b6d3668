"""The charts of the report with their texts. A text describes this run and claims no more than it shows."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from isentrope.report import figures
from isentrope.report.facts import Batch, Evaluation, Facts, Histogram
from isentrope.report.fit import FEWEST_POINTS, WINDOW, Fit, fit, window_means
from isentrope.report.words import percent

FORCED_BELOW = 0.1
"""Entropy in nats below which a token counts as forced: only one continuation is likely."""


@dataclass(frozen=True, slots=True)
class Chart:
    """A picture with its text. Without a picture, `text` says why."""

    title: str
    svg: str
    text: str


def charts(facts: Facts) -> list[Chart]:
    """Return all charts, in the order of the page."""
    return [
        _learning(facts),
        _entropy(facts.batches),
        _exchange(facts.batches),
        _tries(facts.before, facts.after),
        _tokens(facts.batches),
        _lags(facts.batches),
    ]


def _learning(facts: Facts) -> Chart:
    title = "Does it learn?"
    if not facts.batches:
        return Chart(title, "", "No batch has been trained yet.")
    first, last = _ends([line.reward for line in facts.batches])
    text = f"The mean reward went from {first:.2f} in the first {_some(facts.batches)} to {last:.2f} in the last."
    if facts.before is not None and facts.after is not None and {1} <= facts.before.pass_at.keys():
        held_out = facts.before
        text += (
            f" On {held_out.prompts} held-out prompts, {held_out.samples} answers each, the share of right answers went"
            f" from {percent(facts.before.pass_at[1])} to {percent(facts.after.pass_at[1])}."
        )
    else:
        text += " There is no evaluation on held-out prompts both before and after."
    return Chart(title, figures.learning(facts.batches, facts.evaluations), f"{text} {_LINES}")


def _entropy(batches: Sequence[Batch]) -> Chart:
    title = "How open are its choices?"
    if not batches:
        return Chart(title, "", "No batch has been trained yet.")
    first, last = _ends([line.entropy for line in batches])
    text = (
        "Entropy is how undecided the model is about the next token: 0 nats is certain, 0.69 a free choice between two,"
        f" 1.10 between three. The mean went from {first:.2f} in the first {_some(batches)} to {last:.2f} in the last."
    )
    return Chart(title, figures.entropy(batches), text)


def _exchange(batches: Sequence[Batch]) -> Chart:
    title = "What does entropy buy?"
    h = window_means([line.entropy for line in batches])
    r = window_means([line.reward for line in batches])
    if not len(h):
        return Chart(title, "", f"Reward over entropy is shown from {WINDOW} batches on.")
    curve = fit(h, r)
    return Chart(title, figures.reward_over_entropy(batches, curve), _curve_text(curve, len(h)))


def _curve_text(curve: Fit | None, points: int) -> str:
    if curve is None:
        return f"A curve is fitted through {FEWEST_POINTS} means of {WINDOW} batches or more; here are {points}."
    text = (
        f"R = \u2212a·exp(H) + b with a = {curve.a:.3f} and b = {curve.b:.3f} describes these {curve.points} means with"
        f" R² = {curve.r2:.2f} and leaves ±{curve.residual:.3f}; a straight line in H has R² = {curve.r2_line:.2f}."
    )
    if curve.a <= 0:
        return f"{text} Reward did not rise as entropy fell, so the curve says nothing about what entropy buys."
    return (
        f"{text} At H = 0 the curve stands at b \u2212 a = {curve.ceiling:.2f}."
        " It describes this run over this range; it is no forecast and no limit."
    )


def _tries(before: Evaluation | None, after: Evaluation | None) -> Chart:
    title = "Did it lose variety?"
    if before is None and after is None:
        return Chart(title, "", "The model was not evaluated on held-out prompts.")
    picture = figures.pass_at_k(before, after)
    if before is None or after is None:
        return Chart(title, picture, "The evaluation before training or the one after it is missing.")
    k = max(before.pass_at.keys() & after.pass_at.keys(), default=1)
    start, end = before.pass_at, after.pass_at
    text = f"With {k} tries, {percent(start[k])} of the prompts were solved before and {percent(end[k])} after."
    gained, lost = end[1] > start[1], end[k] < start[k]
    if gained and lost:
        text += " More right at the first try and fewer in many: it has grown surer, and its answers more alike."
    elif gained:
        text += " More right at the first try, and no fewer in many: what it gained did not cost variety."
    return Chart(title, picture, text)


def _tokens(batches: Sequence[Batch]) -> Chart:
    title = "Where are its choices?"
    if not batches or batches[0].entropy_hist is None or batches[-1].entropy_hist is None:
        return Chart(title, "", "The entropies of single tokens were not recorded.")
    first, last = batches[0].entropy_hist, batches[-1].entropy_hist
    edge, share_first = _forced(first)
    _, share_last = _forced(last)
    text = (
        f"Some tokens follow from what stands before them, others are real choices. Below {edge:.2f} nats lay"
        f" {percent(share_first, 0)} of the tokens of the first batch and {percent(share_last, 0)} of the last."
    )
    return Chart(title, figures.token_entropy(first, last), text)


def _lags(batches: Sequence[Batch]) -> Chart:
    title = "How fresh is what it learns from?"
    tokens: Counter[int] = Counter()
    for line in batches:
        tokens.update(line.lag_hist)
    total = sum(tokens.values())
    if not total:
        return Chart(title, "", "The age of tokens was not recorded.")
    oldest = max(lag for lag, count in tokens.items() if count)
    if oldest == 0:
        text = f"All {total:,} tokens were written by the very policy that learned from them."
    else:
        text = (
            f"Of {total:,} tokens, {percent(tokens[0] / total)} were written by the policy that learned from them; none"
            f" was more than {oldest} batch{'es' if oldest > 1 else ''} old."
        )
    return Chart(title, figures.lags(tokens), text)


def _forced(histogram: Histogram) -> tuple[float, float]:
    """Return the bin edge nearest to `FORCED_BELOW`, and the share of tokens below it."""
    place = min(range(len(histogram.edges)), key=lambda i: abs(histogram.edges[i] - FORCED_BELOW))
    return histogram.edges[place], sum(histogram.counts[:place]) / max(1, sum(histogram.counts))


_LINES = f"Pale: single batches; bold: means of {WINDOW}."


def _ends(values: Sequence[float]) -> tuple[float, float]:
    first, last = values[:WINDOW], values[-WINDOW:]
    return sum(first) / len(first), sum(last) / len(last)


def _some(batches: Sequence[Batch]) -> str:
    return f"{min(WINDOW, len(batches))} batches"
