"""Philox4x32-10 against the vectors of its authors, and what the project asks of a draw."""

import numpy as np
import pytest
import torch

from isentrope.learner.objective import philox

ONES = 0xFFFFFFFF


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((ONES,) * 4, (ONES, ONES), (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_known_answers(counter: tuple[int, ...], key: tuple[int, int], expected: tuple[int, ...]) -> None:
    a, b, c, d = (np.array([word], dtype=np.uint64) for word in counter)
    assert tuple(int(word[0]) for word in philox.philox((a, b, c, d), key)) == expected


def test_a_draw_belongs_to_its_token_whatever_is_drawn_beside_it() -> None:
    seq, index = torch.tensor([5, 5, 1 << 40]), torch.tensor([0, 1, 0])
    whole = philox.uniform(7, 3, 0, seq, index, 16)
    order = torch.tensor([2, 0])
    part = philox.uniform(7, 3, 0, seq[order], index[order], 9)
    assert torch.equal(part, whole[order, :9])


def test_every_number_of_the_address_changes_the_draw() -> None:
    seq, index = torch.tensor([5]), torch.tensor([0])
    draws = {
        float(philox.uniform(*numbers, 1))
        for numbers in [
            (7, 3, 0, seq, index),
            (8, 3, 0, seq, index),
            (7 + (1 << 32), 3, 0, seq, index),
            (7, 4, 0, seq, index),
            (7, 3, 1, seq, index),
            (7, 3, 0, seq + 1, index),
            (7, 3, 0, seq + (1 << 32), index),
            (7, 3, 0, seq, index + 1),
        ]
    }
    assert len(draws) == 8


def test_draws_are_uniform() -> None:
    drawn = philox.uniform(1, 0, 0, torch.arange(200), torch.zeros(200, dtype=torch.int64), 500).flatten()
    assert drawn.min() >= 0 and drawn.max() < 1
    counts = torch.histc(drawn, bins=20, min=0, max=1)
    chi_square = ((counts - 5000).square() / 5000).sum()
    assert chi_square < 43.8  # 99.9 % of 19 degrees of freedom
