"""Random numbers as a function of their use, so that every rank and every order of work draws the same.

"Parallel Random Numbers: As Easy as 1, 2, 3" by Salmon et al. (SC 2011): Philox4x32-10,
the generator of `tl.rand` as well.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Uint64 = NDArray[np.uint64]

LOW = np.uint64(0xFFFFFFFF)
SHIFT = np.uint64(32)


def philox(counter: tuple[Uint64, Uint64, Uint64, Uint64], key: tuple[int, int]) -> tuple[Uint64, ...]:
    """Return four random 32-bit words (held in uint64) for each counter of four 32-bit words."""
    c0, c1, c2, c3 = counter
    k0, k1 = (np.uint64(k) for k in key)
    for _ in range(10):
        first, second = np.uint64(0xD2511F53) * c0, np.uint64(0xCD9E8D57) * c2
        c0, c1, c2, c3 = (second >> SHIFT) ^ c1 ^ k0, second & LOW, (first >> SHIFT) ^ c3 ^ k1, first & LOW
        k0, k1 = (k0 + np.uint64(0x9E3779B9)) & LOW, (k1 + np.uint64(0xBB67AE85)) & LOW
    return c0, c1, c2, c3


def uniform(  # noqa: PLR0913  (the parts of one counter)
    seed: int, batch: int, update: int, seq: Tensor, index: Tensor, length: int
) -> Tensor:
    """Draw one number in [0, 1) for each token of each response, float64 with 53 random bits: [N, length].

    seq, index: [N] int64, the work order and the response's place in its group.
    """
    word = [np.asarray([x], dtype=np.uint64) for x in (batch, update, 0, 0)]
    mixed = philox((word[0], word[1], word[2], word[3]), (seed & 0xFFFFFFFF, seed >> 32 & 0xFFFFFFFF))
    key = (int(mixed[0][0]), int(mixed[1][0]))
    orders = seq.cpu().numpy().astype(np.uint64)[:, None]
    position = np.arange(length, dtype=np.uint64)[None, :]
    shape = (len(orders), length)
    counter = (
        np.broadcast_to(position, shape),
        np.broadcast_to(index.cpu().numpy().astype(np.uint64)[:, None], shape),
        np.broadcast_to(orders & LOW, shape),
        np.broadcast_to(orders >> SHIFT, shape),
    )
    a, b, _, _ = philox(counter, key)
    bits = (a >> np.uint64(5)) * np.uint64(1 << 26) + (b >> np.uint64(6))
    return torch.from_numpy(bits.astype(np.float64) * 2.0**-53).to(seq.device)
