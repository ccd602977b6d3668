"""The table of runs on a terminal, and the lines that stand for it elsewhere."""

import io

from rich.console import Console
from run_records import make_row

from isentrope.comparison.live import LiveTable, Row


def _shown(table: LiveTable) -> str:
    told = io.StringIO()
    Console(file=told, width=120).print(table.render())
    return told.getvalue()


def test_the_table_has_each_run_and_what_is_waited_for() -> None:
    rows = [Row("grpo", 0), Row("[red]own", 1)]
    with LiveTable(Console(file=io.StringIO(), force_terminal=True), rows, batches=20) as table:
        progress = table.run(rows[0])
        progress.waiting(["the learner starts"])
        progress.batch(make_row(3), 20)
        shown = _shown(table)
    assert "3/20" in shown and "[red]own" in shown and "waits" in shown
    assert "grpo, seed 0: the learner starts" in shown


def test_without_a_terminal_there_is_a_line_per_batch() -> None:
    told, rows = io.StringIO(), [Row("grpo", 0)]
    with LiveTable(Console(file=told, width=120), rows, batches=20) as table:
        table.run(rows[0]).batch(make_row(3), 20)
    assert "grpo, seed 0: batch 3/20, reward" in told.getvalue()


def test_a_run_that_had_ended_is_shown_so() -> None:
    rows = [Row("grpo", 0)]
    with LiveTable(Console(file=io.StringIO()), rows, batches=20) as table:
        table.run(rows[0]).found(make_row(20))
        assert "finished before" in _shown(table) and "20/20" in _shown(table)
