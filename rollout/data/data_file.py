"""A data file as prompts: which rows of it are kept, and in which order they are served."""

import hashlib
import math
from array import array
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from isentrope.errors import DataError, nearest
from isentrope.rollout.config import DataConfig
from isentrope.rollout.data.expression import KEY, Condition
from isentrope.rollout.data.passes import SHUFFLED, OrderedPasses, ShuffledPasses, scored_order
from isentrope.rollout.data.rows import Row, RowShape, value_of
from isentrope.rollout.data.scores import Scores, read_scores, scores_path
from isentrope.rollout.data.survey import Survey
from isentrope.rollout.data.tables import open_named, source_name

ORDER = "data.order"


@dataclass(frozen=True, slots=True)
class NamedFile:
    """A data file of the configuration, or a data set. name: as the run file has it. source: its name in records;
    empty: that of the file. number: place among those of a mixture."""

    name: str
    source: str = ""
    number: int = 0


class DataFile:
    """Rows of a data file in the file's order, as far as `data.keep` keeps them if they are training rows."""

    def __init__(self, file: NamedFile, data: DataConfig, run_folder: Path, *, trains: bool) -> None:
        source = file.source or source_name(file.name)
        steps, demonstration = (data.steps, data.demonstration) if trains else ("", "")
        self._shape = RowShape(data.prompt, data.columns, source, data.system_prompt, steps, demonstration)
        self._chooser = _Chooser(data, scores_path(file.name, run_folder)) if trains else None
        self._kept = array("q")
        self._rows = 0
        self.demonstrations = 0
        """Kept rows that have a demonstration."""
        self.survey = Survey()
        self._table = open_named(file.name, run_folder, self._take)
        if not self._kept:
            raise DataError(f"{data.keep!r} keeps none of {self._rows} rows", where=KEY, fix="change the condition")
        self.count = self.eval_count = len(self._kept)
        self.whole = len(self._table)
        """Rows of the file, kept or not."""
        self.table_digest = self._table.digest
        """Digest of the file alone, without its scores."""
        self.digest = self.table_digest
        if self._chooser is not None and self._chooser.scores is not None:
            self.digest = self._chooser.digest(self.table_digest, self.whole)

    def eval(self, index: int) -> Row:
        """Return a kept row."""
        return self.whole_row(self._kept[index])

    def whole_row(self, index: int) -> Row:
        """Return a row of the file, kept or not."""
        return self._shape.row(self._table[index], self._table.where(index))

    @property
    def order_values(self) -> NDArray[np.float64]:
        """Values of the column that orders the kept rows, [count]; empty if none does."""
        return np.array([] if self._chooser is None else self._chooser.values, dtype=np.float64)

    def _take(self, raw: Mapping[str, object], where: str) -> None:
        row = self._shape.row(raw, where)
        if self._chooser is None or self._chooser.keeps(self._rows, raw, where):
            self.survey.add(row)
            self.demonstrations += bool(row.demonstration)
            self._kept.append(self._rows)
        self._rows += 1


class TrainingFile:
    """A data file, and the passes over its kept rows."""

    def __init__(self, file: NamedFile, data: DataConfig, run_folder: Path, seed: int) -> None:
        self.file = DataFile(file, data, run_folder, trains=True)
        self._passes: ShuffledPasses | OrderedPasses
        if data.order == SHUFFLED:
            self._passes = ShuffledPasses(self.file.count, seed, file.number)
            return
        scored = scored_order(data.order)
        rows = np.arange(self.file.count) if scored is None else scored.rows(self.file.order_values)
        self._passes = OrderedPasses(rows, data.stages, data.stage_passes, seed + file.number)

    def train(self, place: int) -> Row:
        """Return the row of the work order that draws from this file after `place` earlier ones."""
        return self.file.eval(self._passes.row(place))


class _Chooser:
    """Reader of the columns that choose and order rows: the data's own ones, or those of the scores beside them."""

    def __init__(self, data: DataConfig, path: Path) -> None:
        self._condition = Condition(data.keep) if data.keep else None
        self._scored = scored_order(data.order)
        self._path = path
        self._columns = dict.fromkeys(self._condition.columns if self._condition else [], KEY)
        if self._scored is not None:
            self._columns.setdefault(self._scored.column, ORDER)
        self._from_scores: set[str] | None = None
        self.scores: Scores | None = None
        self.values = array("d")
        """Values of the column that orders, of the rows that were kept."""

    def keeps(self, index: int, raw: Mapping[str, object], where: str) -> bool:
        """Return whether a row is kept; errors name the key and the row."""
        if self._from_scores is None:
            self._from_scores = self._find(raw, where)
        values = {name: self._value(name, index, raw, where) for name in self._columns}
        kept = self._condition is None or self._condition.holds(values, where)
        if kept and self._scored is not None:
            self.values.append(_number(values[self._scored.column], self._scored.column, where))
        return kept

    def digest(self, table: str, rows: int) -> str:
        """Return the digest of the data with the scores that are used; DataError if they are of other data."""
        assert self.scores is not None and self._from_scores is not None
        if self.scores.data != table:
            raise DataError(
                f"{self._path} has the scores of other data: the file has changed since",
                where=next(key for name, key in self._columns.items() if name in self._from_scores),
                fix=f"delete it, and run isentrope score RUN.toml, or put the old data back ({rows} rows now)",
            )
        used = [[self.scores.value(index, name) for index in range(rows)] for name in sorted(self._from_scores)]
        return hashlib.blake2b(f"{table} {used}".encode(), digest_size=16).hexdigest()

    def _find(self, raw: Mapping[str, object], where: str) -> set[str]:
        """Return the columns that the first row lacks, all of which the scores have."""
        lacking = {name for name in self._columns if not _has(raw, name)}
        if not lacking:
            return lacking
        self.scores = read_scores(self._path)
        known = [] if self.scores is None else self.scores.columns
        for name in sorted(lacking - set(known)):
            near = nearest(name, [*raw, *known])
            beside = f"and {self._path.name} " + ("does not exist" if self.scores is None else "does not have it")
            raise DataError(
                f"column {name!r} is missing, {beside}",
                where=f"{self._columns[name]} ({where}; columns: {', '.join([*raw, *known])})",
                fix=f"did you mean {near}?" if near else "run isentrope score RUN.toml, which writes it",
            )
        return lacking

    def _value(self, name: str, index: int, raw: Mapping[str, object], where: str) -> object:
        assert self._from_scores is not None
        if name in self._from_scores:
            assert self.scores is not None
            return self.scores.value(index, name)
        try:
            return value_of(raw, name)
        except KeyError:
            raise DataError(f"column {name!r} is missing", where=f"{self._columns[name]} ({where})") from None


def _has(raw: Mapping[str, object], name: str) -> bool:
    try:
        value_of(raw, name)
    except KeyError:
        return False
    return True


def _number(value: object, column: str, where: str) -> float:
    """Return the value that a row is ordered by; DataError if it is not a number."""
    try:
        number = float(value) if isinstance(value, int | float | str) else math.nan
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise DataError(
            f"{column!r} is {value!r}, by which the row has no place in the order",
            where=f"{ORDER} ({where})",
            fix=f'leave such rows out by data.keep, such as "{column} >= 0", or give them a number',
        )
    return number
