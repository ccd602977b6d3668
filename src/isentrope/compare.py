"""The command `isentrope compare`: runs beside each other, with a verdict for each pair of methods."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from isentrope import runfolder
from isentrope.console import say, tell
from isentrope.errors import ConfigError
from isentrope.rollout.wire.files import replacing

PAGE = "comparison.html"


def compare_runs(runs: Sequence[Path], page: Path, as_json: bool, console: Console) -> int:
    """Write the page of a comparison, and print its verdicts.

    Raises:
        ConfigError: fewer than two methods, or runs that cannot be told apart.
        RunFolderError: there is no such run.
    """
    from isentrope.comparison.arms import compare, read_arms
    from isentrope.comparison.page import facts, interval, render, sentence

    comparison = compare(read_arms([runfolder.find(run) for run in runs]))
    if len(comparison.arms) < 2:
        raise ConfigError(
            f"all runs are of one method, {', '.join(arm.name for arm in comparison.arms)}",
            where="RUN",
            fix="name runs of two methods or more",
        )
    with replacing(page, durable=False) as unfinished:
        unfinished.write_text(render(comparison), encoding="utf-8")
    if as_json:
        return tell(console, True, "", facts(comparison) | {"page": str(page)})
    table = Table("method", "against", comparison.measure, "verdict", box=None, pad_edge=False)
    for pair in comparison.pairs:
        if pair.difference is None:
            say(console, sentence(pair, comparison.measure))
        else:
            table.add_row(pair.first, pair.second, interval(pair.difference), pair.difference.verdict)
    console.print(table, highlight=False, markup=False)
    for note in comparison.notes:
        say(console, note)
    say(console, f"page: {page}")
    return 0
