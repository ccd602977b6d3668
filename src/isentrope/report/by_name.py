"""Lines about the data sets of a run and its sets of held-out prompts, where there are several."""

from collections.abc import Callable, Iterator, Mapping, Sequence

from isentrope.learner.records import BatchRow
from isentrope.report.contents import RunContents
from isentrope.report.windows import WINDOW, mean
from isentrope.report.words import percent


def source_rows(batches: Sequence[BatchRow]) -> Iterator[tuple[str, str]]:
    """Yield name and figures of each of several data sets, in the first and in the last batches."""
    names = sorted({name for row in batches for name in row.objective.entropy_by_source or ()})
    if len(names) < 2:
        return
    for name in names:
        parts = [
            _change("entropy", [row.objective.entropy_by_source for row in batches], name, "{:.2f}".format),
            _change("reward", [row.objective.reward_by_source for row in batches], name, "{:.2f}".format),
            _change("right", [row.objective.pass_rate_by_source for row in batches], name, percent),
        ]
        yield f"data set {name}", ", ".join(filter(None, parts))


def held_out_rows(contents: RunContents) -> Iterator[tuple[str, str]]:
    """Yield name and figures of each of several sets of held-out prompts, before and after training."""
    for name in contents.sets if len(contents.sets) > 1 else ():
        own = contents.of(name)
        before, after = own.before, own.after
        last = after or before
        assert last is not None, "a set has evaluations"
        parts = [f"{last.prompts} prompts, {last.samples} answers each"]
        for k in sorted({1, max(last.pass_at, default=1)} & last.pass_at.keys()):
            was = f"{before.pass_at[k]:.3f} before, " if before and after and k in before.pass_at else ""
            parts.append(f"pass@{k} {was}{last.pass_at[k]:.3f}{' after' if after else ' before'}")
        if not last.pass_at:
            was = f"{before.reward:.3f} before, " if before and after else ""
            parts.append(f"reward {was}{last.reward:.3f}{' after' if after else ' before'}")
        yield f"held-out {name}", "; ".join(parts)


def _change(what: str, tables: Sequence[Mapping[str, float] | None], name: str, words: Callable[[float], str]) -> str:
    """Return what a data set's mean was in the first and in the last batches that had it; empty: in none."""
    values = [table[name] for table in tables if table and name in table]
    if not values:
        return ""
    return f"{what} {words(mean(values[:WINDOW]))} \u2192 {words(mean(values[-WINDOW:]))}"
