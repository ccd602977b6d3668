"""A picture of the board: its panels, drawn from what a Prometheus answers."""

import io
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.typing import RcKeyType
from monitoring import Prometheus, panels
from PIL import Image

COLUMNS = 3

COLORS = 48
"""Of the file, which is a third as large then."""

STYLE: dict[RcKeyType, Any] = {
    "font.size": 6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.linewidth": 0.3,
    "lines.linewidth": 0.9,
    "legend.fontsize": 5,
    "legend.frameon": False,
}


def draw(prometheus: Prometheus, run: str, start: float, end: float, path: Path) -> None:
    """Draw the panels over the time between `start` and `end`, in seconds of Unix time, into a file of PNG."""
    board = panels()
    rows = -(-len(board) // COLUMNS)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7.5, 1.25 * rows), layout="constrained", dpi=110)
        places = list(figure.subplots(rows, COLUMNS, sharex=True, squeeze=False).flat)
        for panel, axes in zip(board, places, strict=False):
            axes.set_title(panel.title, loc="left", fontsize=6)
            for legend, query in panel.queries.items():
                for series in prometheus.ask(query, run, start, end):
                    axes.plot([at - start for at in series.times], series.values, label=series.named(legend))
            axes.legend(ncols=1 + (len(axes.lines) > 3))
        for axes in places[len(board) - COLUMNS : len(board)]:
            axes.tick_params(labelbottom=True)
        for axes in places[len(board) :]:
            axes.set_axis_off()
        figure.supxlabel("seconds")
        drawn = io.BytesIO()
        figure.savefig(drawn, format="png")
    Image.open(drawn).convert("P", palette=Image.Palette.ADAPTIVE, colors=COLORS).save(path, optimize=True)
