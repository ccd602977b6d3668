"""The charts of the report with their texts. A text describes this run and claims no more than it shows."""

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from isentrope.learner.measures import EntropyHistogram, EntropyLaw
from isentrope.learner.records import BatchRow, EvalRow
from isentrope.learner.training.entropy_law import FEWEST
from isentrope.report import entropy_budget, figures
from isentrope.report.contents import RunContents
from isentrope.report.entropy_budget import budget_of
from isentrope.report.windows import WINDOW
from isentrope.report.words import percent

FORCED_BELOW = 0.1
"""Entropy in nats below which a token counts as forced: only one continuation is likely."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Chart:
    """A picture with its text. Without a picture, `text` says why."""

    title: str
    svg: str
    text: str


def charts(contents: RunContents) -> list[Chart]:
    """Return all charts, in the order of the page."""
    made: dict[str, Callable[[str], Chart]] = {
        "Does it learn?": partial(_learning, contents),
        "How open are its choices?": partial(_entropy, contents.batches),
        "What moved its entropy?": partial(_movers, contents.batches),
        "What does entropy buy?": partial(_exchange, contents.batches, contents.law),
        "Did it lose variety?": partial(_tries, contents.before, contents.after),
        "Where are its choices?": partial(_tokens, contents.batches),
        "How fresh is what it learns from?": partial(_lags, contents.batches),
    }
    return [_drawn(title, make) for title, make in made.items()]


def _drawn(title: str, make: Callable[[str], Chart]) -> Chart:
    """Return a chart, or why it is left out: numbers that are not finite, or another version's, must not cost the
    page."""
    try:
        return make(title)
    except Exception as error:  # whatever the numbers do to a fit, a scale or a format
        logger.warning("the chart %r is left out", title, exc_info=True)
        return Chart(title, "", f"This chart is left out: its numbers cannot be drawn ({type(error).__name__}).")


def _learning(contents: RunContents, title: str) -> Chart:
    if not contents.batches:
        return Chart(title, "", "No batch has been trained yet.")
    first, last = _ends([line.reward for line in contents.batches])
    text = f"The mean reward went from {first:.2f} in the first {_some(contents.batches)} to {last:.2f} in the last."
    text += _held_out(contents.before, contents.after)
    return Chart(title, figures.learning(contents.batches, contents.first_set.evaluations), f"{text} {_LINES}")


def _held_out(before: EvalRow | None, after: EvalRow | None) -> str:
    if before is None or after is None:
        return " There is no evaluation on held-out prompts both before and after."
    whole = f" On {before.prompts} held-out prompts, {before.samples} answers each,"
    if 1 in before.pass_at and 1 in after.pass_at:
        return (
            f"{whole} the share of right answers went from {percent(before.pass_at[1])} to {percent(after.pass_at[1])}."
        )
    return f"{whole} the mean reward went from {before.reward:.2f} to {after.reward:.2f}."


def _entropy(batches: Sequence[BatchRow], title: str) -> Chart:
    if not batches:
        return Chart(title, "", "No batch has been trained yet.")
    first, last = _ends([line.entropy for line in batches])
    text = (
        "Entropy is how undecided the model is about the next token: 0 nats is certain, 0.69 a free choice between two,"
        f" 1.10 between three. The mean went from {first:.2f} in the first {_some(batches)} to {last:.2f} in the last."
    )
    return Chart(title, figures.entropy(batches), text)


def _movers(batches: Sequence[BatchRow], title: str) -> Chart:
    budget = budget_of(batches)
    if budget is None:
        return Chart(title, "", f"The change of entropy was measured at fewer than {entropy_budget.FEWEST} batches.")
    return Chart(title, figures.movers(budget), entropy_budget.text(budget))


def _exchange(batches: Sequence[BatchRow], law: EntropyLaw | None, title: str) -> Chart:
    if len(batches) < FEWEST:
        return Chart(title, "", f"Reward over entropy is shown from {FEWEST} batches on.")
    return Chart(title, figures.reward_over_entropy(batches, law), _law_text(law))


def _law_text(law: EntropyLaw | None) -> str:
    if law is None:
        return f"No line is fitted: the entropy did not move, or its reference is younger than {FEWEST} batches."
    text = (
        f"R = \u2212a·exp(H) + b with a = {law.a:.3f} and b = {law.b:.3f} is the least-squares line through the last"
        f" {law.points} batches: R² = {law.r2:.2f}, and it leaves ±{law.rmse:.3f}."
    )
    if law.a <= 0:
        return f"{text} Reward did not rise as entropy fell, so the line says nothing about what entropy buys."
    return (
        f"{text} At H = 0 it stands at b \u2212 a = {law.ceiling:.2f}, with 95 % confidence between"
        f" {law.ceiling_low:.2f} and {law.ceiling_high:.2f} if batches are independent, which they are not quite."
        " It describes this run over this range; it is neither a forecast nor a limit."
    )


def _tries(before: EvalRow | None, after: EvalRow | None, title: str) -> Chart:
    if before is None and after is None:
        return Chart(title, "", "The model was not evaluated on held-out prompts.")
    if not any(row.pass_at for row in (before, after) if row is not None):
        return Chart(
            title, "", "Rewards are graded: no single answer is a success, so there is nothing to count over tries."
        )
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


def _tokens(batches: Sequence[BatchRow], title: str) -> Chart:
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


def _lags(batches: Sequence[BatchRow], title: str) -> Chart:
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


def _forced(histogram: EntropyHistogram) -> tuple[float, float]:
    """Return the bin edge nearest to `FORCED_BELOW`, and the share of tokens below it."""
    place = min(range(len(histogram.edges)), key=lambda i: abs(histogram.edges[i] - FORCED_BELOW))
    return histogram.edges[place], sum(histogram.counts[:place]) / max(1, sum(histogram.counts))


_LINES = f"Pale: single batches; bold: means of {WINDOW}."


def _ends(values: Sequence[float]) -> tuple[float, float]:
    first, last = values[:WINDOW], values[-WINDOW:]
    return sum(first) / len(first), sum(last) / len(last)


def _some(batches: Sequence[BatchRow]) -> str:
    return f"{min(WINDOW, len(batches))} batches"
