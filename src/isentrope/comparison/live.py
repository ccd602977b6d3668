"""Output while the runs of a comparison go on: a table on a terminal, a line per batch elsewhere."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from isentrope.console import say
from isentrope.learner.records import BatchRow, EvalRow
from isentrope.rollout.config import HELD_OUT


@dataclass(slots=True)
class Row:
    """One run, as it is shown."""

    method: str
    seed: int
    state: str = "waits"
    batch: int = 0
    reward: float | None = None
    entropy: float | None = None
    held_out: float | None = None
    began: float = 0.0
    seconds: float = 0.0


class LiveTable:
    """All runs of a comparison on a console; a context manager."""

    def __init__(self, console: Console, rows: Sequence[Row], batches: int) -> None:
        self._console = console
        self._rows = rows
        self._batches = batches
        self._waits = ""
        shown = Live(
            get_renderable=self.render,
            console=console,
            refresh_per_second=2,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._live = shown if console.is_terminal else None

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._waits = ""
            self._live.stop()

    def render(self) -> Group:
        """Return the table, and what is waited for."""
        table = Table("method", "seed", "state", "batch", "reward", "entropy", "held out", "time")
        table.box, table.pad_edge = None, False
        for row in self._rows:
            batch = f"{row.batch}/{self._batches}" if row.batch else ""
            numbers = (_number(row.reward), _number(row.entropy), _number(row.held_out))
            table.add_row(Text(row.method), str(row.seed), row.state, batch, *numbers, _seconds(row))
        return Group(table, Text(self._waits))

    def run(self, row: Row) -> "RunProgress":
        """Return the receiver of one run's progress, which runs now."""
        row.began = time.monotonic()
        return RunProgress(row, self, each_batch=self._live is None)

    def say(self, line: str) -> None:
        """Print a line above the table."""
        say(self._console, line)

    def show_below(self, text: str) -> None:
        """Show a line below the table."""
        self._waits = text


class RunProgress:
    """Progress of one run."""

    def __init__(self, row: Row, table: LiveTable, *, each_batch: bool) -> None:
        """Show a run in its row; `each_batch`: print a line for each, as no table is seen."""
        self._row = row
        self._table = table
        self._each_batch = each_batch
        self._name = f"{row.method}, seed {row.seed}"

    def found(self, last: BatchRow | None) -> None:
        """Show that the run had ended before."""
        row = self._row
        row.state, row.began = "finished before", 0.0
        if last is not None:
            row.batch, row.reward, row.entropy = last.batch, last.reward, last.entropy
        self.note(row.state)

    def ended(self, status: str) -> None:
        """Show how the run has ended."""
        self._row.state = status
        self._row.seconds = time.monotonic() - self._row.began

    def batch(self, line: BatchRow, batches: int) -> None:
        """Show a batch that was trained."""
        row = self._row
        row.batch, row.reward, row.entropy = line.batch, line.reward, line.entropy
        if self._each_batch:
            self.note(f"batch {line.batch}/{batches}, reward {line.reward:.3f}, entropy {line.entropy:.3f}")

    def evaluation(self, line: EvalRow) -> None:
        """Show an evaluation."""
        value = line.pass_at.get(1, line.reward)
        if line.name == HELD_OUT:
            self._row.held_out = value
        self.note(f"evaluation after batch {line.batch}: {value:.3f}, {line.prompts} prompts")

    def waiting(self, waits: Sequence[str]) -> None:
        """Show what happens, or is waited for, now."""
        self._row.state = "runs"
        self._table.show_below(f"{self._name}: {'; '.join(waits)}" if waits else "")

    def note(self, text: str) -> None:
        """Show an event."""
        self._table.say(f"{self._name}: {text}")


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _seconds(row: Row) -> str:
    seconds = row.seconds or (time.monotonic() - row.began if row.began else 0.0)
    return f"{seconds:.0f} s" if seconds else ""
