"""The hash of a tensor's bits sees what a fault of delivery changes."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from isentrope.rollout.wire.tensor_bits import BLOCK_WORDS, WORD_BYTES, bits_of

DTYPES = [torch.float32, torch.bfloat16]
BLOCK = BLOCK_WORDS * WORD_BYTES


def matrix(rows: int = 24, columns: int = 64, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(0)).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@given(place=st.integers(0, 24 * 64 - 1), bit=st.integers(0, 7))
def test_every_changed_bit_changes_it(dtype: torch.dtype, place: int, bit: int) -> None:
    value = matrix(dtype=dtype)
    changed = value.clone()
    changed.view(-1).view(torch.uint8)[place] ^= 1 << bit
    assert bits_of(changed) != bits_of(value)


@pytest.mark.parametrize("dtype", DTYPES)
@given(rows=st.lists(st.integers(0, 23), min_size=2, max_size=2, unique=True))
def test_exchanged_rows_change_it(dtype: torch.dtype, rows: list[int]) -> None:
    value = matrix(dtype=dtype)
    assert value[0].nbytes >= BLOCK, "a row fills a block"
    exchanged = value.clone()
    exchanged[rows] = value[rows[::-1]]
    assert bits_of(exchanged) != bits_of(value)


@given(distance=st.integers(1, 1 << 12), high=st.integers(1, 15))
def test_exchanged_blocks_that_differ_in_high_bits_alone_change_it(distance: int, high: int) -> None:
    """A multiple of a power of two, times the difference of two places, must not vanish modulo 2^64."""
    words = torch.zeros((distance + 1) * BLOCK_WORDS, dtype=torch.int64)
    words[0] = high << 59
    assert bits_of(words) != bits_of(words.roll(distance * BLOCK_WORDS))


@pytest.mark.parametrize("dtype", [*DTYPES, torch.float64, torch.uint8])
@given(offset=st.integers(0, 40), length=st.integers(0, 300))
def test_a_view_has_that_of_its_copy(dtype: torch.dtype, offset: int, length: int) -> None:
    view = torch.arange(400).to(dtype)[offset : offset + length]
    assert bits_of(view) == bits_of(view.clone())


def test_it_depends_on_bits_alone_and_not_on_layout() -> None:
    value = matrix()
    assert bits_of(value.t().contiguous().t()) == bits_of(value)
    assert bits_of(value.view(torch.int32)) == bits_of(value.view(64, 24)) == bits_of(value)
    assert bits_of(torch.nn.Parameter(value)) == bits_of(value)


@pytest.mark.parametrize("size", [0, 1, 7, 31, 32, 33])
def test_any_size_has_one_and_zeros_of_other_sizes_have_others(size: int) -> None:
    found = {bits_of(torch.zeros(size)), bits_of(torch.zeros(size + 1)), bits_of(torch.ones(size + 1))}
    assert len(found) == 3
    assert all(len(bits) == 16 for bits in found)


def test_a_single_number_has_one() -> None:
    assert bits_of(torch.tensor(1.0)) == bits_of(torch.tensor([1.0])) != bits_of(torch.tensor(-1.0))
