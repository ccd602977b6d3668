"""Output of a long command while it runs: a line per batch, and one that says what is waited for.

On a terminal that line is updated in place; elsewhere it is printed when it has not changed for a while.
"""

import logging
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Generic, Protocol, Self, TypeVar

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bar

from isentrope.console import say
from isentrope.learner import json_files
from isentrope.learner.json_files import FileRecord
from isentrope.learner.records import BatchRow, EvalRow
from isentrope.long_waits import SAY_S
from isentrope.rollout.config import HELD_OUT

F = TypeVar("F", bound=FileRecord)

PLAIN_INTERVAL_S = SAY_S
"""Without a terminal: seconds between two lines about the same wait."""

HEADER_EVERY = 20

logger = logging.getLogger(__name__)


class Tail(Generic[F]):
    """New lines of a file of a run folder, as they are written. A resumed learner may replace it by a shorter one."""

    def __init__(self, folder: Path, kind: type[F], *, from_end: bool) -> None:
        self._kind = kind
        self._path = folder / kind.FILE
        self._offset = self._path.stat().st_size if from_end and self._path.exists() else 0
        self._refused = False

    def read(self) -> Iterator[F]:
        """Yield the lines that were finished since the last call; one that is not a record is left out, and so is a
        file that cannot be read."""
        try:
            yield from self._new()
        except OSError as error:
            if not self._refused:
                logger.warning("%s cannot be read: %s", self._path, error.strerror)
            self._refused = True

    def _new(self) -> Iterator[F]:
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            self._offset = min(self._offset, file.seek(0, os.SEEK_END))
            file.seek(max(self._offset - 1, 0))
            if self._offset:
                self._offset += len(file.readline()) - 1  # nothing, unless the file was replaced and has grown since
            for line in file:
                if not line.endswith(b"\n"):
                    return
                self._offset += len(line)
                yield from json_files.records(self._kind, [(str(self._path), line)])


class Progress(Protocol):
    """Receiver of a command's progress."""

    def batch(self, line: BatchRow, batches: int) -> None:
        """Show a batch that was trained."""

    def evaluation(self, line: EvalRow) -> None:
        """Show an evaluation."""

    def waiting(self, waits: Sequence[str]) -> None:
        """Show what happens, or is waited for, now."""

    def note(self, text: str) -> None:
        """Show an event."""


class Shown:
    """Progress on a console; a context manager."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bar = _bar(console) if console.is_terminal else None
        self._task = self._bar.add_task("", total=None) if self._bar is not None else TaskID(0)
        self._started = time.monotonic()
        self._rows = 0
        self._last = ("", self._started)

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def batch(self, line: BatchRow, batches: int) -> None:
        """Show a batch that was trained."""
        if self._rows % HEADER_EVERY == 0:
            self._say("  batch    reward   entropy   lag   tokens/s   mode", style="bold")
        self._rows += 1
        width = len(str(batches))
        self._say(
            f"  {line.batch:>{width}}/{batches}  {line.reward:>8.3f}  {line.entropy:>8.3f}  {line.lag_mean:>4.1f}  "
            f"{line.time.tokens_per_second:>9,.0f}   {line.mode}"
        )
        if self._bar is not None:
            self._bar.update(self._task, completed=line.batch, total=batches)
        self._last = ("", time.monotonic())

    def evaluation(self, line: EvalRow) -> None:
        """Show an evaluation."""
        solved = "".join(f", pass@{k} {share:.3f}" for k, share in line.pass_at.items())
        name = "" if line.name == HELD_OUT else f" of {line.name}"
        self.note(
            f"evaluation{name} after batch {line.batch}: reward {line.reward:.3f}{solved}, {line.prompts} prompts"
        )

    def waiting(self, waits: Sequence[str]) -> None:
        """Show what happens, or is waited for, now."""
        now = time.monotonic()
        text = f"{_clock(now - self._started)}  {'; '.join(waits)}"
        if self._bar is not None:
            self._bar.update(self._task, description=escape("; ".join(waits)))
        elif now - self._last[1] >= PLAIN_INTERVAL_S:
            self._say(f"  {text}")
            self._last = (text, now)

    def note(self, text: str) -> None:
        """Show an event."""
        self._say(f"  {text}")

    def _say(self, text: str, style: str = "") -> None:
        """Print a line, and log it: what was on a console is looked for in the log."""
        say(self._console, text, style)
        logger.info("%s", text.strip())


def _bar(console: Console) -> Bar:
    """Return a line with spinner, bar, batches, time that has passed and that is left, and what is waited for."""
    batches = (SpinnerColumn(), BarColumn(20), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    return Bar(*batches, TextColumn("{task.description}"), console=console, transient=True)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
