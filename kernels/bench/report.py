"""Reports of results: the table, the chart, and the targets that are missed."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

Results = Mapping[str, Any]
Row = Mapping[str, Any]

SPEEDUPS: Mapping[str, Mapping[str, float]] = {
    "forward": {"trl": 1.30},
    "step": {"": 1.35},
    "kl_cov": {"": 1.6},
    "linear": {"verl": 1.5, "trl": 1.25, "liger": 4.0},
    "linear_top_entropy": {"": 2.0},
}
"""Target speed-up over a peer, by quantity; "": over the best of them. Set for an H200."""

COPY_SHARE = 0.90
SELECTION_MS = 0.040
PEAK_BYTES_PER_TOKEN = 64
OURS = "isentrope"


def table(results: Results) -> str:
    """Return all rows: time, ratio to ours, share of the limit, memory, waits, errors."""
    lines = [f"{results['device']}, torch {results['versions']['torch']}, triton {results['versions']['triton']}"]
    lines.append(
        f"copy {results['rates']['copy_bytes_per_s'] / 1e12:.2f} TB/s, "
        f"matmul {results['rates']['matmul_flop_per_s'] / 1e12:.0f} TFLOP/s"
    )
    lines.append(f"{'quantity':<34}{'provider':<24}{'ms':>9}{'ours is':>9}{'of limit':>9}{'MiB':>8}  waits  error")
    for place, rows in _by_shape(results):
        own = next((row for row in rows if row["provider"] == OURS and "failed" not in row), None)
        lines += [_line(place, row, own, results) for row in rows]
    lines += [f"missing: {name}" for name in results["missing"]]
    lines.append(f"compiled for ten new lengths: {', '.join(results['recompilations']) or 'nothing'}")
    return "\n".join(lines) + "\n"


def compiled_table(reports: Iterable[Row], missing: Mapping[str, str]) -> str:
    """Return registers, spills and instructions of compiled kernels."""
    lines = [f"{'kernel':<22}{'provider':<11}{'arch':<7}{'type':<6}{'registers':>9}{'spill B':>9}{'instr./logit':>13}"]
    for row in reports:
        count = row["instructions_per_element"]
        lines.append(
            f"{row['name']:<22}{row['provider']:<11}{row['arch']:<7}{row['dtype']:<6}{row['registers']:>9}"
            f"{row['spill_bytes']:>9}{'-' if count is None else f'{count:.2f}':>13}"
        )
    lines += [f"missing: {name}: {reason}" for name, reason in missing.items()]
    return "\n".join(lines) + "\n"


def missed(results: Results) -> list[str]:
    """Return the targets that the results miss, or that lack a peer to compare with."""
    return [*_slow(results), *_limits(results)]


def chart(results: Results, path: Path) -> None:
    """Draw bars of time by quantity and provider; nothing where matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return
    groups = list(_by_shape(results))
    figure = Figure(figsize=(9, 1.6 * len(groups)), layout="constrained")
    for axes, (place, rows) in zip(figure.subplots(len(groups), squeeze=False)[:, 0], groups, strict=True):
        good = [row for row in rows if "failed" not in row]
        colors = ["#1f77b4" if row["provider"] == OURS else "#b0b0b0" for row in good]
        axes.barh([row["provider"] for row in good], [row["median_ms"] for row in good], color=colors)
        axes.invert_yaxis()
        axes.set_title(place, fontsize=9, loc="left")
    figure.supxlabel(f"ms, median, {results['device']}")
    figure.savefig(path, dpi=150)


def _line(place: str, row: Row, own: Row | None, results: Results) -> str:
    head = f"{place:<34}{row['provider']:<24}"
    if "failed" in row:
        return f"{head}{row['failed']}"
    ratio = "" if own is None or row is own else f"{row['median_ms'] / own['median_ms']:.2f}x"
    error = ", ".join(f"{name} {value:.0e}" for name, value in row["errors"].items())
    return (
        f"{head}{row['median_ms']:>9.3f}{ratio:>9}{_of_limit(row, results):>9.2f}{row['peak_bytes'] / 2**20:>8.1f}"
        f"  {'yes' if row['syncs'] else 'no':<5}  {error}"
    )


def _of_limit(row: Row, results: Results) -> float:
    """Return the time that the copy rate or the matmul rate allows, divided by the time taken."""
    rates = results["rates"]
    least = row["flop"] / rates["matmul_flop_per_s"] if "flop" in row else row["bytes"] / rates["copy_bytes_per_s"]
    return float(1e3 * least / row["median_ms"])


def _by_shape(results: Results) -> Iterator[tuple[str, list[Row]]]:
    groups: dict[str, list[Row]] = {}
    for row in results["results"]:
        shape = " ".join(str(row[key]) for key in ("tokens", "vocabulary", "hidden") if key in row)
        groups.setdefault(f"{row['quantity']} {shape}", []).append(row)
    yield from groups.items()


def _slow(results: Results) -> Iterator[str]:
    for place, rows in _by_shape(results):
        times = {row["provider"]: row["median_ms"] for row in rows if "failed" not in row}
        own = times.pop(OURS, None)
        for peer, factor in SPEEDUPS.get(place.split()[0], {}).items():
            other = times.get(peer) if peer else min(times.values(), default=None)
            name = peer or "the best peer"
            if own is None or other is None:
                yield f"{place}: {name} could not be compared with"
            elif other < factor * own:
                yield f"{place}: {other / own:.2f} times as fast as {name}, {factor} is the target"


def _limits(results: Results) -> Iterator[str]:
    if results["recompilations"]:
        yield f"compiled for new lengths: {', '.join(results['recompilations'])}"
    for row in (row for row in results["results"] if row["provider"] == OURS and "failed" not in row):
        place = f"{row['quantity']} at {row['tokens']} tokens"
        if row["quantity"] == "forward" and (share := _of_limit(row, results)) < COPY_SHARE:
            yield f"{place}: {share:.2f} of the copy rate, {COPY_SHARE} is the target"
        if row["quantity"] == "selection" and (row["median_ms"] > SELECTION_MS or row["syncs"]):
            yield f"{place}: {row['median_ms']:.3f} ms, waits: {row['syncs']}; {SELECTION_MS} without is the target"
        if "hidden" not in row and row["peak_bytes"] > PEAK_BYTES_PER_TOKEN * row["tokens"]:
            yield f"{place}: {row['peak_bytes'] / row['tokens']:.0f} bytes per token, {PEAK_BYTES_PER_TOKEN} at most"
