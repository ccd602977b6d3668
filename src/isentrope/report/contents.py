"""The records of a run's folder, for the report.

A run that was killed, or is still going, leaves files incomplete or absent: missing values are None or empty here,
and the page says so. A last line that a crash has truncated is dropped. What is not a record, by a fault of the
disk or of an editor, is left out and named: the report of all other lines is worth having.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from isentrope.errors import StorageError
from isentrope.learner import json_files
from isentrope.learner.json_files import FileRecord
from isentrope.learner.measures import EntropyLaw
from isentrope.learner.outage_record import OutageRow
from isentrope.learner.records import BatchRow, EvalRow, Outcome, RunRecord, SampleRow
from isentrope.resolved import OBJECTIVE, RUN_FILE

F = TypeVar("F", bound=FileRecord)


@dataclass(frozen=True, slots=True)
class RunContents:
    """All records of one run."""

    run: RunRecord | None
    outcome: Outcome | None
    batches: tuple[BatchRow, ...]
    evaluations: tuple[EvalRow, ...]
    """Those in which something was answered."""
    samples: tuple[SampleRow, ...]
    outages: tuple[OutageRow, ...]
    settings: Mapping[str, str]
    """Texts of the files with the run's settings, by name; without those that the run did not leave."""
    left_out: tuple[str, ...] = ()
    """A sentence for each file of which something could not be read."""

    @property
    def sets(self) -> list[str]:
        """Names of the sets of held-out prompts, in the order of their evaluations."""
        return list(dict.fromkeys(row.name for row in self.evaluations))

    def of(self, name: str) -> "RunContents":
        """Return the same run with the evaluations of one set alone."""
        return replace(self, evaluations=tuple(row for row in self.evaluations if row.name == name))

    @property
    def first_set(self) -> "RunContents":
        """The same run with the evaluations of the first set alone, which pictures and headlines are about."""
        return self.of(self.sets[0]) if len(self.sets) > 1 else self

    @property
    def before(self) -> EvalRow | None:
        """The evaluation of the model as it came, on the first set."""
        rows = self.first_set.evaluations
        return rows[0] if rows and rows[0].batch == 0 else None

    @property
    def after(self) -> EvalRow | None:
        """The newest evaluation of a trained model, on the first set."""
        rows = self.first_set.evaluations
        return rows[-1] if rows and rows[-1].batch > 0 else None

    @property
    def law(self) -> EntropyLaw | None:
        """The entropy law of the newest batch, as the learner fitted it."""
        return self.batches[-1].objective.entropy_law if self.batches else None


def read_contents(folder: Path) -> RunContents:
    """Read a run folder, without what it cannot read."""
    reader = _Reader(folder)
    settings = {name: text for name in (RUN_FILE, OBJECTIVE) if (text := reader.text(name)) is not None}
    return RunContents(
        run=reader.whole(RunRecord),
        outcome=reader.whole(Outcome),
        batches=reader.lines(BatchRow),
        evaluations=tuple(row for row in reader.lines(EvalRow) if row.prompts),
        samples=reader.lines(SampleRow),
        outages=reader.lines(OutageRow),
        left_out=tuple(reader.left_out),
        settings=settings,
    )


class _Reader:
    """Reads the records of one folder, and notes what it leaves out."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.left_out: list[str] = []

    def whole(self, kind: type[F]) -> F | None:
        try:
            return json_files.read(self._folder, kind)
        except StorageError as error:
            self.left_out.append(f"{kind.FILE} is left out: {_why(error)}")
            return None

    def text(self, name: str) -> str | None:
        try:
            return (self._folder / name).read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return None
        except OSError as error:
            self.left_out.append(f"{name} is left out: {_why(error)}")
            return None

    def lines(self, kind: type[F]) -> tuple[F, ...]:
        errors: list[str] = []

        def note(place: str, error: StorageError) -> None:
            errors.append(f"line {place.rpartition(':')[2]} ({_why(error)})")

        found: tuple[F, ...] = ()
        try:
            found = tuple(json_files.read_lines(self._folder, kind, note))
        except StorageError as error:
            errors.append(_why(error))
        if errors:
            more = f" and {len(errors) - 1:,} more" if len(errors) > 1 else ""
            self.left_out.append(f"{kind.FILE}: {errors[0]}{more} left out")
        return found


def _why(error: StorageError | OSError) -> str:
    return error.what if isinstance(error, StorageError) else error.strerror or str(error)
