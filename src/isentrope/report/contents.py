"""The records of a run's folder, for the report.

A run that was killed, or is still going, leaves files incomplete or absent: missing values are None or empty here,
and the page says so. A last line that a crash has truncated is dropped.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from isentrope.learner import json_files
from isentrope.learner.measures import EntropyLaw
from isentrope.learner.outage_record import OutageRow
from isentrope.learner.records import BatchRow, EvalRow, Outcome, RunRecord, SampleRow
from isentrope.resolved import OBJECTIVE, RUN_FILE


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

    @property
    def before(self) -> EvalRow | None:
        """The evaluation of the model as it came."""
        return self.evaluations[0] if self.evaluations and self.evaluations[0].batch == 0 else None

    @property
    def after(self) -> EvalRow | None:
        """The newest evaluation of a trained model."""
        return self.evaluations[-1] if self.evaluations and self.evaluations[-1].batch > 0 else None

    @property
    def law(self) -> EntropyLaw | None:
        """The entropy law of the newest batch, as the learner fitted it."""
        return self.batches[-1].objective.entropy_law if self.batches else None


def read_contents(folder: Path) -> RunContents:
    """Read a run folder. StorageError if a file holds what this program does not write."""
    return RunContents(
        run=json_files.read(folder, RunRecord),
        outcome=json_files.read(folder, Outcome),
        batches=tuple(json_files.read_lines(folder, BatchRow)),
        evaluations=tuple(row for row in json_files.read_lines(folder, EvalRow) if row.prompts),
        samples=tuple(json_files.read_lines(folder, SampleRow)),
        outages=tuple(json_files.read_lines(folder, OutageRow)),
        settings={
            name: (folder / name).read_text(encoding="utf-8", errors="replace")
            for name in (RUN_FILE, OBJECTIVE)
            if (folder / name).is_file()
        },
    )
