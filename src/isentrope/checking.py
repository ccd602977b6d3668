"""The command `check`: the stages of the check, each with the mistakes it finds, for a reader or a program."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from isentrope.check.findings import Findings
from isentrope.config import load_with_errors
from isentrope.console import say, working
from isentrope.environment import set_defaults
from isentrope.errors import InternalError, IsentropeError

_MARKS = ("[green]✓[/green]", "[red]✗[/red]")


@dataclass(frozen=True, slots=True)
class Mistake:
    """A mistake, in its JSON form. code: the exit code of a command that meets it."""

    what: str
    where: str
    fix: str
    code: int


@dataclass(frozen=True, slots=True)
class StageResult:
    """A stage of the check, in its JSON form. looked_at: false if an earlier mistake must be mended first."""

    name: str
    looked_at: bool
    mistakes: tuple[Mistake, ...]


@dataclass(frozen=True, slots=True)
class Report:
    """The whole check, in its JSON form. shown: what the model will be given. notes: what the run does otherwise than
    its reader may think; empty if there are mistakes."""

    file: str
    stages: list[StageResult] = field(default_factory=list)
    shown: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def check_file(path: Path, overrides: Sequence[str], as_json: bool, console: Console) -> int:
    """Check everything a run file points to; raise all mistakes as a group."""
    set_defaults()
    report = Report(str(path))
    try:
        _check(path, overrides, report, Console(quiet=True) if as_json else console)
    finally:
        if as_json:
            console.print_json(json.dumps(asdict(report)))
    return 0


def show_notes(notes: Sequence[str], console: Console) -> None:
    """Print notes of a check."""
    for note in notes:
        say(console, f"note: {note}")


def _check(path: Path, overrides: Sequence[str], report: Report, console: Console) -> None:
    """Fill the report, and print it meanwhile."""
    try:
        config, file, errors, wrong = load_with_errors(path, overrides)
    except IsentropeError as error:
        report.stages.append(_result("keys", [error]))
        raise
    report.stages.append(_result("keys", errors))
    _show(report.stages[-1], console)
    with working(console, f"what {path} points to") as tell:
        findings = Findings(config, file, wrong=wrong, tell=tell)
        for name, found in findings.stages():
            report.stages.append(_result(name, found))
            _show(report.stages[-1], console)
            told = {error.where for error in errors if isinstance(error, IsentropeError)}
            errors += [each for each in found or () if not (isinstance(each, IsentropeError) and each.where in told)]
    report.shown.extend(findings.shown)
    for line in findings.shown:
        say(console, line)
    if errors:
        raise ExceptionGroup(str(path), errors)
    report.notes.extend(findings.checked().notes)
    show_notes(report.notes, console)


def _show(result: StageResult, console: Console) -> None:
    if result.looked_at:
        console.print(f"{_MARKS[bool(result.mistakes)]} {escape(result.name)}", soft_wrap=True)
    else:
        say(console, f"- {result.name}: not looked at before the mistakes above are mended")


def _result(name: str, found: Sequence[Exception] | None) -> StageResult:
    return StageResult(name, found is not None, tuple(map(_mistake, found or ())))


def _mistake(error: Exception) -> Mistake:
    known = error if isinstance(error, IsentropeError) else InternalError(f"{type(error).__name__}: {error}")
    return Mistake(known.what, known.where, known.fix, known.exit_code)
