"""Columns as bytes that hold no code: of each its values or its runs of equal ones, whichever is shorter."""

import io
from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[Any]

_COUNT = np.dtype(np.uint32)


def to_bytes(columns: Mapping[str, Array]) -> bytes:
    """Return the columns, whose names have no space, in NumPy's own format, a bit for each truth value."""
    table: dict[str, Array] = {}
    for name, column in columns.items():
        values = column.ravel()
        if column.ndim != 1:
            table[f"{name} shape"] = np.array(column.shape)
        if column.dtype == np.bool_:
            table[f"{name} truths"] = np.array([len(values)])
            values = np.packbits(values)
        starts = _run_starts(values)
        if len(starts) * (values.itemsize + _COUNT.itemsize) < values.nbytes:
            table[f"{name} counts"] = np.diff(starts, append=len(values)).astype(_COUNT)
            values = values[starts]
        table[name] = values
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **table)
    return buffer.getvalue()


def from_bytes(blob: bytes) -> dict[str, Array]:
    """Return what `to_bytes` was given; no code of the sender runs."""
    with np.load(io.BytesIO(blob), allow_pickle=False) as table:
        found: dict[str, Array] = {name: table[name] for name in table.files}
    return {name: _column(found, name) for name in found if " " not in name}


def _column(found: Mapping[str, Array], name: str) -> Array:
    values = found[name]
    if (counts := found.get(f"{name} counts")) is not None:
        values = np.repeat(values, counts)
    if (truths := found.get(f"{name} truths")) is not None:
        values = np.unpackbits(values, count=int(truths[0])).astype(np.bool_)
    shape = found.get(f"{name} shape")
    return values if shape is None else values.reshape(shape)


def _run_starts(values: Array) -> Array:
    """Return where runs of equal bits begin: numbers that are not numbers are equal to themselves here."""
    bits = values.view(f"u{values.itemsize}") if values.dtype.kind in "iuf" else values
    return np.flatnonzero(np.append(True, bits[1:] != bits[:-1])[: len(bits)])
