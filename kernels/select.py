# mypy: allow-untyped-defs, allow-untyped-decorators, allow-untyped-calls, allow-incomplete-defs
# pyright: reportGeneralTypeIssues=false, reportCallIssue=false, reportArgumentType=false, reportAttributeAccessIssue=false
"""Exact choice of tokens over a whole batch, on the device and without waiting for it: the k largest, ties by index.

Order: larger value first, then smaller index; -0 equals +0, NaN comes last. Values become unsigned keys of the same
order, and the k-th largest key is found digit by digit (radix 256, four rounds). One program does it all up to
`ONE_PROGRAM` values; above, every round is a histogram over many programs, in integers, so the result does not depend
on their order. k is read on the device.

A choice over data-parallel ranks or micro-batches is made on the values of all of them (`gather`): every rank then
computes the same bits from the same numbers. Deciding per micro-batch would make the method depend on the packing.
"""

from typing import TypeAlias

import torch
import torch.distributed as dist
import triton
import triton.language as tl

from isentrope.errors import ArgumentError
from isentrope.kernels.checks import check_device, check_tokens, check_types

ONE_PROGRAM = 1 << 17
"""Up to here one program with all its warps on one multiprocessor is faster than eight launches over the whole GPU."""

_BLOCK = 4096
_ONE_BLOCK = 2048  # with 4096 values Triton 3.6 spills on sm_80
_WARPS = 16

Group: TypeAlias = "dist.ProcessGroup | None"


def top_k_mask(
    values: torch.Tensor, k: "int | torch.Tensor", *, candidates: torch.Tensor | None = None
) -> torch.Tensor:
    """Return which `values` [n] float32 are among the `k` largest of the candidates: bool [n].

    Args:
        k: a number, or [1] integer on the device of `values`; more than there are candidates selects all of them.
        candidates: [n] bool; None: all. NaN is chosen last, but it is chosen if k demands it.
    """
    if values.dim() != 1 or values.dtype != torch.float32:
        raise ArgumentError(f"values: {values.dtype} {tuple(values.shape)}, float32 [n] is needed")
    return _largest(_keys(values), k, candidates)


def smallest_random_mask(
    random: torch.Tensor, k: "int | torch.Tensor", *, candidates: torch.Tensor | None = None
) -> torch.Tensor:
    """Return a random subset of `k` candidates: those with the smallest `random` [n] int32 (any bits). Bool [n].

    With counter-based random numbers of (seed, step, token) the subset is the same for any rank, order or packing.
    """
    if random.dim() != 1 or random.dtype != torch.int32:
        raise ArgumentError(f"random: {random.dtype} {tuple(random.shape)}, int32 [n] is needed")
    return _largest(random ^ -1, k, candidates)  # unsigned order is reversed by flipping every bit


def covariance(logp: torch.Tensor, advantage: torch.Tensor, candidates: torch.Tensor) -> torch.Tensor:
    """Return (A - mean A)(logp - mean logp), [n] float32, with means over the candidates in float64; 0 elsewhere."""
    check_tokens(logp.numel(), logp.device, {"advantage": advantage, "candidates": candidates})
    weight = candidates.double()
    count = weight.sum().clamp(min=1)
    mean_logp = (torch.where(candidates, logp.double(), 0.0)).sum() / count
    mean_advantage = (torch.where(candidates, advantage.double(), 0.0)).sum() / count
    product = (advantage.double() - mean_advantage) * (logp.double() - mean_logp)
    return torch.where(candidates, product, 0.0).float()


def share_of(candidates: torch.Tensor, share: float) -> torch.Tensor:
    """Return max(1, floor(share * number of candidates)) as [1] int32, on the device."""
    count = candidates.sum(dtype=torch.float64)
    return (count * share).floor().clamp(min=1).to(torch.int32).reshape(1)


def top_entropy_mask(entropy: torch.Tensor, share: float, candidates: torch.Tensor) -> torch.Tensor:
    """Return the candidates whose entropy is at least the (1 - share) quantile of all candidates' (2506.01939): bool
    [n].

    The quantile interpolates linearly between order statistics; ties at it are kept.
    """
    ordered = torch.where(candidates, entropy.double(), torch.inf).sort().values
    last = (candidates.sum(dtype=torch.float64) - 1).clamp(min=0)
    place = (1 - share) * last
    low, high = place.floor().long(), place.ceil().long()
    # indexing by a tensor without dimensions would wait for the device
    below, above = ordered.take(low), ordered.take(high)
    threshold = torch.lerp(below, above, place - low)
    return candidates & (entropy.double() >= torch.where(below == above, below, threshold))


def gather(values: torch.Tensor, group: Group = None) -> tuple[torch.Tensor, slice]:
    """Return `values` [n] of all ranks in rank order, and this rank's slice of them. Ranks may differ in n."""
    if not dist.is_initialized() or dist.get_world_size(group) == 1:
        return values, slice(0, values.numel())
    world, rank = dist.get_world_size(group), dist.get_rank(group)
    sizes = torch.zeros(world, dtype=torch.int64, device=values.device)
    sizes[rank] = values.numel()
    dist.all_reduce(sizes, group=group)
    counts = [int(size) for size in sizes.tolist()]
    padded = values.new_zeros(max(counts))
    padded[: values.numel()] = values
    parts = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(parts, padded, group=group)
    start = sum(counts[:rank])
    whole = torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])
    return whole, slice(start, start + counts[rank])


def _keys(values: torch.Tensor) -> torch.Tensor:
    """Return unsigned 32-bit keys, as int32 bits, in the order of the values."""
    bits = torch.where(values == 0, 0.0, values).contiguous().view(torch.int32)  # -0 becomes +0
    ordered = torch.where(bits < 0, bits ^ -1, bits ^ -(1 << 31))
    return torch.where(values.isnan(), 0, ordered)


def _largest(keys: torch.Tensor, k: "int | torch.Tensor", candidates: torch.Tensor | None) -> torch.Tensor:
    check_tokens(keys.numel(), keys.device, {"candidates": candidates})
    check_types({"candidates": candidates}, allowed=(torch.bool,))
    check_device(keys.device)
    if isinstance(k, int):
        if k < 0:
            raise ArgumentError(f"k: {k}, 0 or more is needed")
        k = torch.full((1,), min(k, keys.numel()), dtype=torch.int32, device=keys.device)
    chosen: torch.Tensor = _choose(keys, k, candidates)
    return chosen


@torch.library.custom_op("isentrope::choose", mutates_args=())
def _choose(keys: torch.Tensor, k: torch.Tensor, candidates: torch.Tensor | None) -> torch.Tensor:
    """Choose as an operator, so that torch.compile traces through it without a break."""
    count = keys.numel()
    chosen = torch.zeros(count, dtype=torch.bool, device=keys.device)
    if count == 0:
        return chosen
    allowed = torch.ones_like(chosen) if candidates is None else candidates.contiguous()
    arguments = (keys, allowed.view(torch.uint8), chosen.view(torch.uint8), k, count)
    if count <= ONE_PROGRAM:
        _select_one[(1,)](*arguments, B=_ONE_BLOCK if count > 1024 else 1024, num_warps=_WARPS if count > 1024 else 4)
    else:
        _largest_many(*arguments)
    return chosen


@_choose.register_fake
def _fake_choose(keys: torch.Tensor, k: torch.Tensor, candidates: torch.Tensor | None) -> torch.Tensor:
    return torch.empty(keys.shape, dtype=torch.bool, device=keys.device)


def _largest_many(keys: torch.Tensor, allowed: torch.Tensor, chosen: torch.Tensor, k: torch.Tensor, count: int) -> None:
    blocks = triton.cdiv(count, _BLOCK)
    state = torch.zeros(2, dtype=torch.int32, device=keys.device)  # prefix of the k-th key, how many it still needs
    state[1:].copy_(torch.minimum(k, allowed.sum(dtype=torch.int32)))
    histogram = torch.zeros(4, 256, dtype=torch.int32, device=keys.device)
    for digit in range(4):
        _count[(blocks,)](keys, allowed, state, histogram[digit], count, 24 - 8 * digit, B=_BLOCK, num_warps=8)
        _pick[(1,)](state, histogram[digit], 24 - 8 * digit, num_warps=1)
    ties = torch.zeros(blocks, dtype=torch.int32, device=keys.device)
    _ties[(blocks,)](keys, allowed, state, ties, count, B=_BLOCK, num_warps=8)
    before = ties.cumsum(0, dtype=torch.int32) - ties
    _mark[(blocks,)](keys, allowed, chosen, state, before, count, B=_BLOCK, num_warps=8)


@triton.jit
def _load(keys, allowed, start, n, B: tl.constexpr):
    i = start + tl.arange(0, B)
    on = tl.load(allowed + i, mask=i < n, other=0) != 0
    key = tl.load(keys + i, mask=i < n, other=0).to(tl.uint32, bitcast=True)
    return i, on, key


@triton.jit
def _same_prefix(key, prefix, shift):
    """Return True where the digits above `shift + 8` are those already fixed. Shifts by 32 are undefined: two steps."""
    return ((key >> shift) >> 8) == ((prefix >> shift) >> 8)


@triton.jit
def _choose_digit(histogram, need):
    """Return the largest digit at which at least `need` keys are reached from above, and the number it must give."""
    reached = tl.cumsum(histogram, 0, reverse=True)
    digit = tl.max(tl.where(reached >= need, tl.arange(0, 256), 0), 0)
    above = tl.sum(tl.where(tl.arange(0, 256) > digit, histogram, 0), 0)
    return digit.to(tl.uint32), need - above


@triton.jit(do_not_specialize=["n"], do_not_specialize_on_alignment=["allowed", "k"])
def _select_one(keys, allowed, chosen, k, n, B: tl.constexpr):
    there = tl.zeros([], tl.int32)
    for start in tl.range(0, n, B):
        i, on, key = _load(keys, allowed, start, n, B)
        there += tl.sum(on.to(tl.int32), 0)
    need = tl.minimum(tl.load(k).to(tl.int32), there)
    if need > 0:
        prefix = tl.zeros([], tl.uint32)
        for digit in tl.static_range(4):
            histogram = tl.zeros([256], tl.int32)
            for start in tl.range(0, n, B):
                i, on, key = _load(keys, allowed, start, n, B)
                on = on & _same_prefix(key, prefix, 24 - 8 * digit)
                value = ((key >> (24 - 8 * digit)) & 255).to(tl.int32)
                histogram += tl.histogram(value, 256, mask=on)
            best, need = _choose_digit(histogram, need)
            prefix = prefix | (best << (24 - 8 * digit))
        taken = tl.zeros([], tl.int32)
        for start in tl.range(0, n, B):
            i, on, key = _load(keys, allowed, start, n, B)
            tie = (on & (key == prefix)).to(tl.int32)
            rank = taken + tl.cumsum(tie, 0)
            take = (on & (key > prefix)) | ((tie != 0) & (rank <= need))
            tl.store(chosen + i, take.to(tl.uint8), mask=i < n)
            taken += tl.sum(tie, 0)


@triton.jit(do_not_specialize=["n", "shift"], do_not_specialize_on_alignment=["allowed", "histogram"])
def _count(keys, allowed, state, histogram, n, shift, B: tl.constexpr):
    _, on, key = _load(keys, allowed, tl.program_id(0) * B, n, B)
    prefix = tl.load(state).to(tl.uint32, bitcast=True)
    on = on & _same_prefix(key, prefix, shift.to(tl.uint32))
    value = ((key >> shift.to(tl.uint32)) & 255).to(tl.int32)
    tl.atomic_add(histogram + tl.arange(0, 256), tl.histogram(value, 256, mask=on), sem="relaxed")


@triton.jit(do_not_specialize=["shift"], do_not_specialize_on_alignment=["histogram"])
def _pick(state, histogram, shift):
    prefix = tl.load(state).to(tl.uint32, bitcast=True)
    best, need = _choose_digit(tl.load(histogram + tl.arange(0, 256)), tl.load(state + 1))
    tl.debug_barrier()
    tl.store(state, (prefix | (best << shift.to(tl.uint32))).to(tl.int32, bitcast=True))
    tl.store(state + 1, need)


@triton.jit(do_not_specialize=["n"], do_not_specialize_on_alignment=["allowed"])
def _ties(keys, allowed, state, ties, n, B: tl.constexpr):
    _, on, key = _load(keys, allowed, tl.program_id(0) * B, n, B)
    same = on & (key == tl.load(state).to(tl.uint32, bitcast=True))
    tl.store(ties + tl.program_id(0), tl.sum(same.to(tl.int32), 0))


@triton.jit(do_not_specialize=["n"], do_not_specialize_on_alignment=["allowed"])
def _mark(keys, allowed, chosen, state, before, n, B: tl.constexpr):
    i, on, key = _load(keys, allowed, tl.program_id(0) * B, n, B)
    prefix = tl.load(state).to(tl.uint32, bitcast=True)
    need = tl.load(state + 1)
    tie = (on & (key == prefix)).to(tl.int32)
    rank = tl.load(before + tl.program_id(0)) + tl.cumsum(tie, 0)
    take = (on & (key > prefix)) | ((tie != 0) & (rank <= need))
    tl.store(chosen + i, take.to(tl.uint8), mask=i < n)
