"""The report's pictures: records in, inline SVG out.

Colours are drawn as placeholders and replaced by the page's CSS variables, so that the same picture works on a light
and on a dark background. Text stays text: small, searchable, in the reader's own font.
"""

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullFormatter, NullLocator, PercentFormatter

from isentrope.learner.measures import EntropyHistogram, EntropyLaw
from isentrope.learner.records import BatchRow, EvalRow
from isentrope.learner.training.entropy_law import pair_of
from isentrope.report.entropy_budget import KINDS, Budget
from isentrope.report.windows import WINDOW, rolling_mean, window_means

INK, SOFT, RULE = "#010101", "#020202", "#030303"
REWARD, ENTROPY, BEFORE, AFTER = "#040404", "#050505", "#060606", "#070707"
"""Placeholders: text, lesser text, lines; the four quantities."""
ARMS = ("#080808", "#090909", "#0a0a0a", "#0b0b0b", "#0c0c0c", "#0d0d0d")
"""Placeholders of what is compared."""

_VARIABLES = {
    INK: "--ink",
    SOFT: "--soft",
    RULE: "--rule",
    REWARD: "--reward",
    ENTROPY: "--entropy",
    BEFORE: "--before",
    AFTER: "--after",
    **{color: f"--arm{letter}" for color, letter in zip(ARMS, "abcdef", strict=True)},
}

_STYLE = Path(__file__).with_name("figures.mplstyle")

_UNWANTED = (
    r"<metadata>.*?</metadata>",
    r"<style.*?</style>",  # would act on the whole page
    r' (?:width|height)="[\d.]+pt"',
    r'(?<=<g) id="[^"]*"',  # the same in every picture
    r"font-family: [^;\"]*;? ?",
)

_BOLD_LINE = 2.2

_FLOOR = 0.5
"""Start of a logarithmic axis of counts: an empty bin lies on it."""


def learning(batches: Sequence[BatchRow], evaluations: Sequence[EvalRow]) -> str:
    """Draw training reward per batch, and pass@1 on held-out prompts where it was measured; of graded rewards the mean
    there."""
    points = [(line.batch, line.pass_at[1]) for line in evaluations if 1 in line.pass_at]
    held_out = "share of right answers" if points or not evaluations else "reward"
    points = points or [(line.batch, line.reward) for line in evaluations]
    with axes_of("learning") as (figure, axes):
        axes.set_title(f"reward in training, and {held_out} on held-out prompts")
        _curve(axes, batches, [line.reward for line in batches], REWARD, "training")
        if points:
            x, y = zip(*points, strict=True)
            axes.plot(x, y, "o-", color=AFTER, ms=5, lw=1.0)
            _label(axes, (x[-1], y[-1]), "held-out", AFTER, above=y[-1] >= _last_mean(batches))
        return svg_of(figure)


def entropy(batches: Sequence[BatchRow]) -> str:
    """Draw the mean entropy of a token per batch."""
    with axes_of("entropy") as (figure, axes):
        axes.set_title("mean entropy of a token, nats")
        _curve(axes, batches, [line.entropy for line in batches], ENTROPY, "")
        axes.set_ylim(bottom=0)
        return svg_of(figure)


def movers(budget: Budget) -> str:
    """Draw what each kind of token added to the entropy up to each batch as predicted, their sum, and what was measured
    at the batches' own tokens."""
    with axes_of("movers") as (figure, axes):
        axes.set_title("change of entropy by kind of token, nats; dots: measured")
        styles = zip(budget.kinds.items(), (AFTER, AFTER, BEFORE, BEFORE), ("-", ":", "-", ":"), strict=False)
        for (kind, values), color, style in styles:
            axes.plot(budget.batches, values, color=color, ls=style, lw=1.4, label=KINDS[kind])
        axes.plot(budget.batches, budget.total, color=ENTROPY, lw=_BOLD_LINE, label="together")
        axes.plot(*zip(*budget.measured, strict=True), "o", color=INK, ms=3.5)
        axes.set_xlabel("batch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.margins(x=0.02)
        axes.legend(frameon=False, loc="best", labelcolor="linecolor", prop={"size": 8.5})
        return svg_of(figure)


def reward_over_entropy(batches: Sequence[BatchRow], law: EntropyLaw | None) -> str:
    """Draw what the entropy law was fitted to, single batches pale and means of ten dark, and the law's line."""
    entropies, rewards = zip(*map(pair_of, batches), strict=True)
    h, r = window_means(entropies), window_means(rewards)
    with axes_of("exchange") as (figure, axes):
        axes.set_title(f"reward; pale: single batches, dark: means of {WINDOW}")
        axes.set_xlabel("entropy, nats (read from right to left: training uses it up)")
        axes.scatter(entropies, rewards, s=7, color=REWARD, alpha=0.25, lw=0)
        if law is not None:
            x = np.linspace(0.0, float(h.max()) * 1.05, 100)
            axes.plot(x, law.b - law.a * np.exp(x), color=SOFT, lw=1.2, ls=(0, (4, 3)))
        for x, y, alpha in zip(h, r, np.linspace(0.4, 1.0, len(h)), strict=True):
            axes.scatter(x, y, s=46, color=REWARD, lw=0, alpha=float(alpha), zorder=3)
        for place, when, side in ((0, f"batches 1-{WINDOW}", 1), (-1, "last", -1)):
            axes.annotate(
                when,
                (h[place], r[place]),
                (8 * side, 6 * side),
                textcoords="offset points",
                ha="left" if side > 0 else "right",
                va="center",
                color=SOFT,
            )
        axes.margins(x=0.16)
        axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
        axes.set_xlim(left=0)
        return svg_of(figure)


def pass_at_k(before: EvalRow | None, after: EvalRow | None) -> str:
    """Draw the share of held-out prompts that at least one of k tries answers correctly."""
    with axes_of("tries") as (figure, axes):
        axes.set_title("share of prompts solved by at least one of k tries")
        axes.set_xlabel("k tries")
        for evaluation, color, name in ((before, BEFORE, "before"), (after, AFTER, "after")):
            if evaluation is None:
                continue
            ks = sorted(evaluation.pass_at)
            ys = [evaluation.pass_at[k] for k in ks]
            axes.plot(ks, ys, "o-", color=color, ms=5, lw=_BOLD_LINE)
            other = after if evaluation is before else before
            above = other is None or ys[-1] >= other.pass_at.get(ks[-1], 0.0)
            _label(axes, (ks[-1], ys[-1]), name, color, above=above)
        axes.set_xscale("log", base=2)
        shown = sorted({k for line in (before, after) if line for k in line.pass_at})
        axes.xaxis.set_major_locator(FixedLocator(shown))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda k, _: f"{k:g}"))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_ylim(0, 1.04)
        as_percent(axes)
        return svg_of(figure)


def token_entropy(first: EntropyHistogram, last: EntropyHistogram) -> str:
    """Draw the histogram of token entropies in the first and the last batch, with logarithmic counts."""
    with axes_of("tokens") as (figure, axes):
        axes.set_title("tokens of one batch")
        axes.set_xlabel("entropy of the token, nats")
        bins = max(_filled(first), _filled(last))
        for histogram, color, name in ((first, BEFORE, "first batch"), (last, AFTER, "last batch")):
            counts = np.maximum(np.asarray(histogram.counts[:bins], dtype=float), _FLOOR)
            axes.stairs(counts, color=color, lw=1.8, label=name, baseline=_FLOOR)
            axes.stairs(counts, color=color, fill=True, alpha=0.12, baseline=_FLOOR)
        axes.xaxis.set_major_locator(FixedLocator(list(range(bins + 1))))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda place, _: f"{first.edges[round(place)]:g}"))
        axes.set_xlim(0, bins)
        axes.set_yscale("log")
        axes.set_ylim(bottom=_FLOOR)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda n, _: f"{n:,.0f}" if n >= 1 else ""))
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.legend(
            frameon=False,
            loc="lower right",
            bbox_to_anchor=(1.0, 0.99),
            ncols=2,
            handlelength=1.0,
            labelcolor="linecolor",
            prop={"weight": "bold", "size": 9},
        )
        return svg_of(figure)


def lags(tokens: Mapping[int, int]) -> str:
    """Draw the share of trained tokens by lag."""
    with axes_of("lags") as (figure, axes):
        axes.set_title("share of trained tokens")
        axes.set_xlabel("lag: age in batches of the policy that wrote the token")
        total = sum(tokens.values())
        x = list(range(max(tokens) + 1))
        shares = [tokens.get(lag, 0) / total for lag in x]
        bars = axes.bar(x, shares, width=0.55, color=AFTER)
        axes.bar_label(bars, [_share(share) for share in shares], padding=3, color=SOFT, fontsize=8.5)
        axes.xaxis.set_major_locator(FixedLocator(x))
        axes.set_xlim(-0.75, max(len(x), 4) - 0.25)
        axes.set_ylim(0, 1.12 * max(shares))
        as_percent(axes)
        return svg_of(figure)


def _curve(axes: Axes, batches: Sequence[BatchRow], values: Sequence[float], color: str, name: str) -> None:
    """Draw every batch pale and the mean of ten around it bold: one batch has too few prompts to be conclusive."""
    x = [line.batch for line in batches]
    axes.plot(x, values, color=color, lw=0.7, alpha=0.45)
    smooth = rolling_mean(values)
    axes.plot(x, smooth, color=color, lw=_BOLD_LINE)
    axes.set_xlabel("batch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
    axes.margins(x=0.02)
    if name:
        _label(axes, (x[-1], float(smooth[-1])), name, color, above=False)


def _filled(histogram: EntropyHistogram) -> int:
    """Return the number of bins up to the last that is not empty."""
    return max((place + 1 for place, count in enumerate(histogram.counts) if count), default=1)


def _last_mean(batches: Sequence[BatchRow]) -> float:
    return float(rolling_mean([line.reward for line in batches])[-1])


def _label(axes: Axes, place: tuple[float, float], text: str, color: str, *, above: bool) -> None:
    """Label a line at its end, on the side away from the other line."""
    axes.annotate(
        text,
        place,
        (0, 8 if above else -8),
        textcoords="offset points",
        ha="right",
        va="bottom" if above else "top",
        color=color,
        fontweight="bold",
    )


def _share(share: float) -> str:
    """Return a share as text; a small one is not shown as 0."""
    if share == 0:
        return "none"
    return "< 0.1%" if share < 0.001 else f"{share:.1%}"


def as_percent(axes: Axes) -> None:
    """Show the vertical axis in per cent."""
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))


@contextmanager
def axes_of(name: str) -> Iterator[tuple[Figure, Axes]]:
    """Yield one empty picture. `name` makes its ids unique on the page."""
    with matplotlib.rc_context({"svg.hashsalt": name}, fname=_STYLE):
        figure = Figure(figsize=(5.6, 3.1), layout="constrained")
        yield figure, figure.subplots()


def svg_of(figure: Figure) -> str:
    """Return the picture as an element of a page: without prologue, size, fonts and colours."""
    out = io.StringIO()
    figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    svg = out.getvalue()
    svg = svg[svg.index("<svg") :]
    for pattern in _UNWANTED:
        svg = re.sub(pattern, "", svg, flags=re.DOTALL)
    for color, variable in _VARIABLES.items():
        svg = svg.replace(color, f"var({variable})")
    return svg
