"""Rows in Arrow's form: of a parquet file, or of a data set that the library `datasets` opened."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol, Self

from isentrope.errors import DataError
from isentrope.rollout.data.table import Check

MAX_BYTES = 16 << 30
"""Largest parquet file, in memory, of which half is the other limit: it is kept whole, and a small one may grow."""

_BATCH = 1024
"""Rows that are converted together."""


class _Value(Protocol):
    def as_py(self) -> object: ...


class _Column(Protocol):
    def __getitem__(self, index: int) -> _Value: ...


class Arrow(Protocol):
    """The used part of a table of pyarrow."""

    @property
    def num_rows(self) -> int: ...

    @property
    def column_names(self) -> list[str]: ...

    def column(self, name: str) -> _Column: ...

    def slice(self, offset: int, length: int) -> Self: ...

    def to_pylist(self) -> list[dict[str, object]]: ...


class ArrowTable:
    """A table of Arrow, kept in its form.

    name: for messages. digest: of its contents.
    """

    def __init__(self, table: Arrow, name: str, digest: str, check: Check) -> None:
        self._table = table
        self._name = name
        self.digest = digest
        names = table.column_names
        if twice := [each for each in names if names.count(each) > 1]:
            raise DataError(f"column {twice[0]!r} occurs twice", where=name, fix="rename one of them")
        for index, row in enumerate(self._rows()):
            check(row, self.where(index))

    def __len__(self) -> int:
        return self._table.num_rows

    def __getitem__(self, index: int) -> dict[str, object]:
        return self._converted(index, 1)[0]

    def where(self, index: int) -> str:
        return f"{self._name}, row {index}"

    def _rows(self) -> Iterator[dict[str, object]]:
        for start in range(0, len(self), _BATCH):
            yield from self._converted(start, _BATCH)

    def _converted(self, start: int, count: int) -> list[dict[str, object]]:
        part = self._table.slice(start, count)
        try:
            return part.to_pylist()
        except (ValueError, OverflowError) as error:
            raise self._unreadable(start, count, error) from error

    def _unreadable(self, start: int, count: int, error: Exception) -> DataError:
        """Return the error for the first value that Python cannot hold."""
        for index in range(start, min(start + count, len(self))):
            for name in self._table.column_names:
                try:
                    self._table.column(name)[index].as_py()
                except (ValueError, OverflowError) as reason:
                    return DataError(
                        f"column {name!r} holds a value that cannot be read: {reason}",
                        where=self.where(index),
                        fix="mend the value, or leave the column out",
                    )
        return DataError(f"values cannot be read: {error}", where=self._name)


def open_parquet(path: Path, check: Check) -> ArrowTable:
    """Return the table of a parquet file; DataError if it cannot be read, or pyarrow is not installed."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise DataError(f"{path}: parquet needs pyarrow", fix="pip install 'isentrope[data]'") from error
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
    most = min(MAX_BYTES, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2)
    size, batches = 0, []
    try:
        file = parquet.ParquetFile(path)
        for batch in file.iter_batches(_BATCH):  # of one value written a million times the file has one
            size += batch.nbytes
            if size > most:
                raise DataError(
                    f"{path} takes more than {most / 2**30:.1f} GiB of memory",
                    fix="give a part of it, or write it as jsonl, which is not kept in memory",
                )
            batches.append(batch)
        table = pyarrow.Table.from_batches(batches, schema=file.schema_arrow)
    except MemoryError:
        raise DataError(f"{path} does not fit into memory", fix="give a part of it, or write it as jsonl") from None
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(
            f"{path} is not a readable parquet file: {str(error).splitlines()[0]}", fix="write or download it again"
        ) from error
    return ArrowTable(table, str(path), digest, check)
