"""The command `isentrope compare`: runs beside each other, with a verdict for each pair of methods."""

import json
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from isentrope import runfolder
from isentrope.console import say, tell
from isentrope.errors import ConfigError
from isentrope.rollout.wire.files import replacing, write_whole

PAGE = "comparison.html"


def compare_folders(runs: Sequence[str], launching: Sequence[str], page: Path, as_json: bool, console: Console) -> int:
    """Compare runs that have been trained; `launching`: options that were given and are about training them.

    Raises:
        ConfigError: there are such options; else as `compare_runs`.
    """
    if launching:
        raise ConfigError(
            f"{' and '.join(launching)} would train runs, and no method is given",
            where="--method",
            fix="give --method for each method, or leave the option out",
        )
    return compare_runs([Path(run) for run in runs], page, as_json, console)


def compare_runs(
    runs: Sequence[Path], page: Path, as_json: bool, console: Console, *, facts_file: Path | None = None
) -> int:
    """Write the page of a comparison, and print its verdicts; `facts_file`: where the same is written as JSON.

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
    known = facts(comparison) | {"page": str(page)}
    if facts_file is not None:
        write_whole(facts_file, json.dumps(known, indent=1) + "\n", durable=False)
    if as_json:
        return tell(console, True, "", known)
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
