"""The interface of a table of rows with random access, and the rule for its columns."""

from collections.abc import Callable, KeysView, Mapping
from typing import Protocol

from isentrope.errors import DataError


class Table(Protocol):
    """Rows by index. `digest` depends on the file's contents only."""

    @property
    def digest(self) -> str: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> dict[str, object]: ...

    def where(self, index: int) -> str:
        """Return the place of a row for messages."""
        ...


Check = Callable[[Mapping[str, object], str], object]
"""Called with every row and its place when a table is opened; raises if the row is invalid."""


def require_columns(row: Mapping[str, object], columns: KeysView[str], where: str) -> None:
    """Raise DataError if the row has other columns than the first, which has `columns`."""
    if row.keys() == columns:
        return
    missing, new = sorted(columns - row.keys()), sorted(row.keys() - columns)
    raise DataError(
        f"column {missing[0]!r} is missing" if missing else f"column {new[0]!r} is not in the first row",
        where=f"{where} (columns of the first row: {', '.join(columns)})",
        fix="give every row the same columns, with null where one does not apply",
    )
