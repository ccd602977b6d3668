"""The pictures of a comparison: one colour for each method, a band from the least to the largest of its seeds."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import cycle

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator
from numpy.typing import NDArray

from isentrope.comparison.arms import Arm
from isentrope.learner.records import BatchRow
from isentrope.report.figures import ARMS, as_percent, axes_of, svg_of
from isentrope.report.windows import rolling_mean, window_means

_BOLD = 2.2


@dataclass(frozen=True, slots=True)
class Line:
    """The look of one method."""

    arm: Arm
    color: str
    style: str


def lines_of(arms: Sequence[Arm]) -> list[Line]:
    """Return a look for each method; from the seventh on, colours come again with another stroke."""
    looks = enumerate(zip(arms, cycle(ARMS), strict=False))
    return [Line(arm, color, "-" if place < len(ARMS) else "--") for place, (arm, color) in looks]


def curves(arms: Sequence[Arm], name: str, title: str, value: Callable[[BatchRow], float]) -> str:
    """Draw a number of each batch, smoothed, by method: mean over seeds, and their band."""
    with axes_of(name) as (figure, axes):
        axes.set_title(title)
        for line in lines_of(arms):
            smooth = _by_batch(line.arm, value)
            batches = np.arange(1, smooth.shape[1] + 1)
            axes.plot(batches, smooth.mean(0), color=line.color, ls=line.style, lw=_BOLD, label=line.arm.name)
            if len(smooth) > 1:
                axes.fill_between(batches, smooth.min(0), smooth.max(0), color=line.color, alpha=0.15, lw=0)
        axes.set_xlabel("batch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.margins(x=0.02)
        _legend(axes)
        return svg_of(figure)


def exchange(arms: Sequence[Arm]) -> str:
    """Draw reward over entropy, means of ten batches of every seed, joined in the order of training."""
    with axes_of("exchange") as (figure, axes):
        axes.set_title("reward, means of ten batches")
        axes.set_xlabel("entropy, nats (read from right to left: training uses it up)")
        for line in lines_of(arms):
            for place, run in enumerate(line.arm.runs):
                h = window_means([row.entropy for row in run.contents.batches])
                r = window_means([row.reward for row in run.contents.batches])
                label = line.arm.name if place == 0 else None
                axes.plot(h, r, "o-", color=line.color, ms=3.5, lw=1.0, alpha=0.8, label=label)
        _legend(axes)
        return svg_of(figure)


def tries(arms: Sequence[Arm]) -> str:
    """Draw the share of held-out prompts solved by at least one of k tries after training, by method."""
    with axes_of("tries") as (figure, axes):
        axes.set_title("share of prompts solved by at least one of k tries, after training")
        axes.set_xlabel("k tries")
        shown: set[int] = set()
        for line in lines_of(arms):
            rows = [run.contents.after.pass_at for run in line.arm.runs if run.contents.after is not None]
            ks = sorted(set.intersection(*(set(row) for row in rows))) if rows else []
            if not ks:
                continue
            shown |= set(ks)
            solved = np.array([[row[k] for k in ks] for row in rows])
            axes.plot(
                ks, solved.mean(0), marker="o", color=line.color, ls=line.style, ms=4.5, lw=_BOLD, label=line.arm.name
            )
            if len(solved) > 1:
                axes.fill_between(ks, solved.min(0), solved.max(0), color=line.color, alpha=0.15, lw=0)
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_locator(FixedLocator(sorted(shown)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda k, _: f"{k:g}"))
        axes.xaxis.set_minor_locator(NullLocator())
        as_percent(axes)
        _legend(axes)
        return svg_of(figure)


def _by_batch(arm: Arm, value: Callable[[BatchRow], float]) -> NDArray[np.float64]:
    """Return [seeds, batches], as far as all seeds go."""
    rows = [rolling_mean([value(row) for row in run.contents.batches]) for run in arm.runs]
    shortest = min(map(len, rows))
    return np.array([row[:shortest] for row in rows])


def _legend(axes: Axes) -> None:
    if axes.get_legend_handles_labels()[1]:
        axes.legend(frameon=False, loc="best", labelcolor="linecolor", prop={"size": 9})
