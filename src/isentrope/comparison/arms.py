"""Methods that are compared: the runs of each, of one seed each, from their folders."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np

from isentrope.comparison.bootstrap import Difference, Scores, difference
from isentrope.errors import ConfigError
from isentrope.learner.records import EvalRow, RunRecord, Summary
from isentrope.report.contents import RunContents, read_contents
from isentrope.report.summary import summarise


@dataclass(frozen=True, slots=True)
class ComparedRun:
    """One run."""

    folder: Path
    record: RunRecord
    contents: RunContents
    summary: Summary


@dataclass(frozen=True, slots=True)
class Arm:
    """All runs of one method and mode, by seed."""

    name: str
    runs: tuple[ComparedRun, ...]

    @property
    def seeds(self) -> tuple[int, ...]:
        """Seeds of the runs."""
        return tuple(run.record.seed for run in self.runs)


@dataclass(frozen=True, slots=True)
class Pair:
    """Two methods. why_not: why their difference is not known; empty where it is."""

    first: str
    second: str
    difference: Difference | None
    paired: bool = False
    why_not: str = ""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Methods, and each pair of them. notes: what limits the comparison."""

    arms: tuple[Arm, ...]
    pairs: tuple[Pair, ...]
    measure: str
    notes: tuple[str, ...]


def read_arms(folders: Sequence[Path]) -> tuple[Arm, ...]:
    """Return the methods of run folders, in the order in which they are first named.

    Raises:
        ConfigError: a folder has no record of a run, or two have the same method, mode and seed.
    """
    arms: dict[str, list[ComparedRun]] = {}
    for folder in folders:
        contents = read_contents(folder)
        if contents.run is None:
            raise ConfigError(f"{folder} has no record of a run", where="RUN", fix="name folders of runs")
        mode = " (on-policy)" if contents.run.mode == "on_policy" else ""
        arms.setdefault(f"{contents.run.method}{mode}", []).append(
            ComparedRun(folder, contents.run, contents, summarise(contents))
        )
    for name, runs in arms.items():
        seeds = [run.record.seed for run in runs]
        if len(set(seeds)) < len(seeds):
            raise ConfigError(
                f"two runs of {name} have the same seed, of {sorted(seeds)}", where="RUN", fix="leave one of them out"
            )
    return tuple(Arm(name, tuple(sorted(runs, key=lambda run: run.record.seed))) for name, runs in arms.items())


def compare(arms: Sequence[Arm]) -> Comparison:
    """Return each pair's difference in the outcomes of held-out prompts at the last evaluation."""
    pairs = tuple(_pair(first, second) for first, second in combinations(arms, 2))
    graded = any(not row.pass_at for arm in arms for run in arm.runs if (row := run.contents.after) is not None)
    return Comparison(tuple(arms), pairs, "mean reward" if graded else "pass@1", tuple(_notes(arms)))


def _pair(first: Arm, second: Arm) -> Pair:
    runs = (*first.runs, *second.runs)
    rows = [run.contents.after for run in runs]
    if any(row is None or row.by_prompt is None for row in rows):
        return Pair(first.name, second.name, None, why_not="a run has no outcomes by prompt after training")
    if len({(run.record.data_digest, run.record.correct) for run in runs}) > 1:
        return Pair(first.name, second.name, None, why_not="their data or their rule of what is right differ")
    known = [row for row in rows if row is not None]
    prompts = sorted(set.intersection(*(set(row.by_prompt or {}) for row in known)))
    if not prompts:
        return Pair(first.name, second.name, None, why_not="no prompt was answered in all of them")
    paired = first.seeds == second.seeds
    scores = _scores(known, prompts)
    cut = len(first.runs)
    return Pair(first.name, second.name, difference(scores[:cut], scores[cut:], paired=paired), paired)


def _scores(rows: Sequence[EvalRow], prompts: Sequence[int]) -> Scores:
    return np.array([[(row.by_prompt or {})[prompt] for prompt in prompts] for row in rows])


def _notes(arms: Sequence[Arm]) -> list[str]:
    """Return what a reader must know beside the intervals."""
    notes = []
    if single := [arm.name for arm in arms if len(arm.runs) == 1]:
        notes.append(
            f"One seed of {', '.join(single)}: its intervals are about prompts; another seed may be beyond them."
        )
    runs = [run for arm in arms for run in arm.runs]
    if len({run.summary.batches for run in runs}) > 1:
        notes.append(f"Runs have different numbers of batches: {_several(str(run.summary.batches) for run in runs)}.")
    if unfinished := [str(run.folder) for run in runs if run.summary.status != "finished"]:
        notes.append(f"Not finished: {_several(unfinished)}.")
    return notes


def _several(names: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(names))
