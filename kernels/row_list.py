# mypy: allow-untyped-defs, allow-untyped-decorators, allow-untyped-calls, allow-incomplete-defs
# pyright: reportGeneralTypeIssues=false, reportCallIssue=false, reportArgumentType=false, reportAttributeAccessIssue=false
"""Lists of the rows a kernel works on, made on the device: no `nonzero`, no wait for the host.

A row list is a permutation of the rows with the active ones first, in order, and their number, both on the device. Row
kernels run a fixed grid and take every n-th entry, so the work is spread evenly for any pattern of active rows.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl

PROGRAMS = 1056
"""Programs of a row kernel: 8 for each of 132 multiprocessors. The result does not depend on it."""

_BLOCK = 1024


class RowList(NamedTuple):
    """order: [M] int32, active rows first. active: [1] int32, their number."""

    order: torch.Tensor
    active: torch.Tensor


def compact(active: torch.Tensor) -> RowList:
    """Return the row list of a mask `active` [M] bool."""
    order = torch.empty(active.shape, dtype=torch.int32, device=active.device)
    count = torch.empty(1, dtype=torch.int32, device=active.device)
    _compact[(1,)](active.view(torch.uint8), order, count, active.numel(), _BLOCK, num_warps=4)
    return RowList(order, count)


def grid(rows: int) -> int:
    """Return the number of programs for `rows` rows."""
    return max(1, min(rows, PROGRAMS))


@triton.jit(do_not_specialize=["n"], do_not_specialize_on_alignment=["active"])
def _compact(active, order, count, n, B: tl.constexpr):
    total = tl.zeros([], tl.int32)
    for start in tl.range(0, n, B):
        i = start + tl.arange(0, B)
        total += tl.sum(tl.load(active + i, mask=i < n, other=0).to(tl.int32), 0)
    tl.store(count, total)
    first = tl.zeros([], tl.int32)
    for start in tl.range(0, n, B):
        i = start + tl.arange(0, B)
        on = tl.load(active + i, mask=i < n, other=0).to(tl.int32)
        rank = first + tl.cumsum(on, 0) - on  # active rows before this one
        place = tl.where(on != 0, rank, total + i - rank)
        tl.store(order + place, i, mask=i < n)
        first += tl.sum(on, 0)
