"""A hash of a tensor's bits, equal on every device: the learner takes it from its live weights, an engine from what it
reads.

It detects mistakes, not forgery: a changed element, exchanged rows, another tensor of the same shape. Elements that are
exchanged within one block of 128 bytes are not seen.
"""

from typing import TYPE_CHECKING

from isentrope.rollout.wire.proof import TensorFacts

if TYPE_CHECKING:
    from torch import Tensor

WORD_BYTES = 8
BLOCK_WORDS = 16

FACTOR = -7046029254386353131
"""Odd, so that a product with it loses no bit; its bits are those of the golden ratio."""

LOW_HALF = (1 << 32) - 1


def facts_of(value: "Tensor") -> TensorFacts:
    """Return what the table of a version says about this tensor."""
    return TensorFacts(str(value.dtype).removeprefix("torch."), tuple(value.shape), bits_of(value))


def bits_of(value: "Tensor") -> str:
    """Return the hash of a tensor's bits as 16 hexadecimal digits; shape and dtype have no part in it.

    Sums of blocks, each multiplied by a number of its place: one pass over the memory, in which addition modulo 2^64
    costs no more than reading.
    """
    import torch

    flat = value.detach().contiguous().view(-1).view(torch.uint8)
    lacking = -len(flat) % (WORD_BYTES * BLOCK_WORDS)
    if lacking:
        flat = torch.nn.functional.pad(flat, (0, lacking))
    elif flat.storage_offset() % WORD_BYTES:
        flat = flat.clone()  # words can be viewed only from a multiple of their size
    blocks = flat.view(torch.int64).view(-1, BLOCK_WORDS).sum(1)
    blocks = (blocks ^ ((blocks >> 32) & LOW_HALF)) * FACTOR  # high bits reach low places, low ones high places
    places = torch.arange(len(blocks), device=value.device) * 2 + 1
    total = int((blocks * places * FACTOR).sum()) + value.nbytes
    return f"{total % (1 << 64):016x}"
