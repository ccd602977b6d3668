"""Columns arrive with every bit, and repeated values cost nearly nothing."""

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from isentrope.learner.intake import columns

DTYPES = [np.bool_, np.int32, np.int64, np.float32, np.float64]
SHAPES = arrays.array_shapes(max_dims=2, min_side=0, max_side=40)


@given(
    st.dictionaries(
        st.sampled_from(["a", "b", "c_0"]),
        st.sampled_from(DTYPES).flatmap(lambda dtype: arrays.arrays(dtype, SHAPES)),
    )
)
def test_every_bit_arrives(table: dict[str, columns.Array]) -> None:
    there = columns.from_bytes(columns.to_bytes(table))
    assert set(there) == set(table)
    for name, column in table.items():
        assert there[name].dtype == column.dtype and there[name].shape == column.shape
        assert there[name].tobytes() == column.tobytes()


def test_names_and_single_numbers_arrive() -> None:
    there = columns.from_bytes(columns.to_bytes({"number": np.asarray(3), "names": np.asarray(("b", "ä"))}))
    assert int(there["number"]) == 3 and there["names"].tolist() == ["b", "ä"]


@pytest.mark.parametrize("value", [1.0, np.nan, -0.0])
def test_runs_of_one_value_are_short(value: float) -> None:
    column = np.repeat(np.array([value, 0.5], np.float32), 100_000)
    told = columns.to_bytes({"a": column})
    assert len(told) < 1000
    assert columns.from_bytes(told)["a"].tobytes() == column.tobytes()


def test_bytes_that_hold_code_are_refused() -> None:
    buffer = io.BytesIO()
    np.savez(buffer, number=np.array([object()]))
    with pytest.raises(ValueError, match="allow_pickle"):
        columns.from_bytes(buffer.getvalue())
