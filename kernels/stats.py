# mypy: allow-untyped-defs, allow-untyped-decorators, allow-untyped-calls, allow-incomplete-defs
# pyright: reportGeneralTypeIssues=false, reportCallIssue=false, reportArgumentType=false, reportAttributeAccessIssue=false
"""Log-probability and entropy of every row of logits, in one read of them.

Each row, or slice of a row (a *segment*: several programs per row, chunks of a linear head, tensor-parallel ranks), is
reduced to a base-2 triple relative to its own maximum, with x_j = z_j log2(e) / T:

    m = max_j x_j,   s = sum_j 2^(x_j - m),   t = sum_j 2^(x_j - m) (x_j - m)

Triples of segments merge exactly (`merge`). From the merged one, logp = ln2 ((x_y - m) - log2 s) and
H = ln2 (log2 s - t / s). t is kept relative to the maximum, so the entropy has no cancellation of large numbers; logp
is formed from x_y - m, never from z_y - logsumexp, which would lose bits where |z| is large.

Moments need two sums more, with the squares of the same powers (they merge alike, by the squares of the factors):

    u = sum_j 4^(x_j - m),   w = sum_j 4^(x_j - m) (x_j - m)
    sum p^2 = u / s^2,       sum p^2 log p = ln2 (w - u log2 s) / s^2

Shapes: M tokens, V vocabulary, S segments. All statistics are float32, in nats where they leave this module.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl

from isentrope.kernels.base_2 import LN2, LOG2E
from isentrope.kernels.checks import INTERPRETED
from isentrope.kernels.row_list import RowList, grid


class Stats(NamedTuple):
    """The four rows of a statistics tensor [4, M] float32.

    logp: [M] nats, of the targets. entropy: [M] nats. top, log_sum: [M], m and log2 s of the whole row.

    m + log2 s is never formed: at |z| = 80 its rounding alone would cost the gradient five bits.
    """

    logp: torch.Tensor
    entropy: torch.Tensor
    top: torch.Tensor
    log_sum: torch.Tensor


class Tile(NamedTuple):
    """Part of a row that a row kernel processes at a time: `unroll` slices of `width` columns, by `warps` warps."""

    unroll: int
    width: int
    warps: int


def tile_for(vocabulary: int) -> Tile:
    """Return the tile for a vocabulary. `width >= 256 * warps` keeps the unrolled axis inside a thread: with less, the
    reductions over it become exchanges through shared memory (counted: 19 instead of 9 instructions per element)."""
    if vocabulary >= 8192:
        return Tile(8, 1024, 4)
    return Tile(4, 256, 1) if vocabulary > 256 else Tile(1, 256, 1)


MOMENT_REGISTERS = 160
"""Registers that a thread may have for moments. Left to itself, the assembler takes 128 for sm_90 and spills two."""


def segments_for(vocabulary: int) -> int:
    """Return the programs per row: fixed by the vocabulary alone, so that a row gives the same bits in any batch."""
    return 2 if vocabulary >= 65536 else 1


def row_stats(
    logits: torch.Tensor, targets: torch.Tensor, inverse_temperature: torch.Tensor, softcap: float, rows: RowList
) -> torch.Tensor:
    """Return the statistics [4, M] (see `Stats`) of the active rows; the others get 0.

    Args:
        logits: [M, V], any row stride.
        targets: [M] int64.
        inverse_temperature: [M] or [1] float32, 1 / T.
        softcap: c > 0 replaces z by c tanh(z / c); 0: none.
    """
    triples = triple_buffer(logits, segments_for(logits.shape[1]))
    segment_stats(logits, targets, inverse_temperature, softcap, rows, triples)
    return merge(triples, rows)


def row_moments(
    logits: torch.Tensor, targets: torch.Tensor, inverse_temperature: torch.Tensor, softcap: float, rows: RowList
) -> torch.Tensor:
    """Return log-probability, entropy, sum p^2 and sum p^2 log p [4, M] of the active rows; the others get 0.

    Args: as of `row_stats`.
    """
    sums = triple_buffer(logits, segments_for(logits.shape[1]), moments=True)
    segment_stats(logits, targets, inverse_temperature, softcap, rows, sums)
    return merge(sums, rows)


def triple_buffer(logits: torch.Tensor, segments: int, *, moments: bool = False) -> torch.Tensor:
    """Return the room for the triples and target logits of all rows: [4, S, M] float32 (m, s, t, x_y - m or -inf
    elsewhere); with moments [6, S, M] (then u, w)."""
    return torch.empty(6 if moments else 4, segments, logits.shape[0], dtype=torch.float32, device=logits.device)


def segment_stats(
    logits: torch.Tensor,
    targets: torch.Tensor,
    inverse_temperature: torch.Tensor,
    softcap: float,
    rows: RowList,
    triples: torch.Tensor,
    vocab_start: int = 0,
) -> None:
    """Fill `triples` from the columns given; the first is token id `vocab_start` (shards of the vocabulary)."""
    count, vocabulary = logits.shape
    tile, moments = tile_for(vocabulary), len(triples) == 6
    _stats[(grid(count), triples.shape[1])](
        logits, targets, inverse_temperature, rows.order, rows.active, triples,
        logits.stride(0), vocabulary, count, vocab_start, softcap,
        PER_ROW=inverse_temperature.numel() > 1, CAP=softcap > 0, MOMENTS=moments, INTERPRETED=INTERPRETED,
        U=tile.unroll, B=tile.width, num_warps=tile.warps, maxnreg=MOMENT_REGISTERS if moments else None,
    )  # fmt: skip


def merge(triples: torch.Tensor, rows: RowList) -> torch.Tensor:
    """Return the statistics [4, M] from the triples of all segments, merged in segment order; of a buffer with moments
    those in place of the last two."""
    parts, segments, count = triples.shape
    out = torch.empty(4, count, dtype=torch.float32, device=triples.device)
    _merge[(triton.cdiv(count, 256),)](
        triples, rows.order, rows.active, out, count, segments, MOMENTS=parts == 6, B=256, num_warps=4
    )
    return out


@triton.jit
def capped(x, softcap, CAP: tl.constexpr):
    """Return c tanh(x / c), through exp2: libdevice's tanh does not exist in the interpreter."""
    if CAP:
        x = softcap * (1.0 - 2.0 / (1.0 + tl.exp2(x * (2.0 * LOG2E) / softcap)))
    return x


@triton.jit
def load_logits(pointers, mask, MASKED: tl.constexpr, INTERPRETED: tl.constexpr):
    """Return logits as float32, -inf raised to a finite floor so that 0 * -inf never appears.

    In bfloat16 the floor is applied before the cast, two columns per instruction; but the interpreter silently computes
    garbage in bfloat16. NaN stays NaN."""
    if MASKED:
        x = tl.load(pointers, mask=mask, other=-float("inf"), eviction_policy="evict_first")
    else:
        x = tl.load(pointers, eviction_policy="evict_first")
    if x.dtype == tl.bfloat16 and not INTERPRETED:
        floor = tl.full(x.shape, -1.0e37, tl.bfloat16)
        return tl.maximum(x, floor, propagate_nan=tl.PropagateNan.ALL).to(tl.float32)
    return tl.maximum(x.to(tl.float32), -1.0e37, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def positive(x):
    """Return at least 0: an entropy may be a rounding error below it. NaN stays NaN."""
    return tl.maximum(x, 0.0, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def accumulate(x, scale, m, s, t):
    """Add a tile x [U, B] to the running triple of each of B lanes. No thread reads another's lane.

    m starts at -1e30, far above the floor of -1e37: a lane of floors would otherwise be its own maximum, where the
    rounding of the product alone is 1e30."""
    new = tl.maximum(m, tl.max(x, 0) * scale)
    delta = m - new
    shrink = tl.exp2(delta)
    t = shrink * tl.fma(delta, s, t)
    s = shrink * s
    y = tl.fma(x, scale, -new[None, :])
    e = tl.exp2(y)
    return new, s + tl.sum(e, 0), t + tl.sum(e * y, 0)


@triton.jit
def accumulate_moments(x, scale, m, s, t, u, w):
    """Add a tile to the running sums of each lane, as `accumulate` does, and to those with squares."""
    new = tl.maximum(m, tl.max(x, 0) * scale)
    delta = m - new
    shrink = tl.exp2(delta)
    w = shrink * shrink * tl.fma(delta, u, w)
    u = shrink * shrink * u
    t = shrink * tl.fma(delta, s, t)
    s = shrink * s
    y = tl.fma(x, scale, -new[None, :])
    e = tl.exp2(y)
    a = e * y
    return new, s + tl.sum(e, 0), t + tl.sum(a, 0), u + tl.sum(e * e, 0), w + tl.sum(e * a, 0)


@triton.jit
def walk_moments(
    base, first, last, scale, softcap, CAP: tl.constexpr, INTERPRETED: tl.constexpr, U: tl.constexpr, B: tl.constexpr
):
    """Return the triple of columns [first, last) of one row, and the two sums with squares."""
    column = tl.arange(0, B)[None, :] + tl.arange(0, U)[:, None] * B
    m = tl.full([B], -1.0e30, tl.float32)
    s = tl.zeros([B], tl.float32)
    t = tl.zeros([B], tl.float32)
    u = tl.zeros([B], tl.float32)
    w = tl.zeros([B], tl.float32)
    whole = first + (last - first) // (U * B) * (U * B)
    for start in tl.range(first, whole, U * B, num_stages=1):
        x = load_logits(base + start + column, column, False, INTERPRETED)
        m, s, t, u, w = accumulate_moments(capped(x, softcap, CAP), scale, m, s, t, u, w)
    if whole < last:
        inside = whole + column < last
        x = load_logits(base + whole + column, inside, True, INTERPRETED)
        x = tl.where(inside, capped(x, softcap, CAP), -1.0e37)
        m, s, t, u, w = accumulate_moments(x, scale, m, s, t, u, w)
    top = tl.max(m, 0)
    delta = m - top
    shrink = tl.exp2(delta)
    square = shrink * shrink
    return (
        top,
        tl.sum(shrink * s, 0),
        tl.sum(shrink * tl.fma(delta, s, t), 0),
        tl.sum(square * u, 0),
        tl.sum(square * tl.fma(delta, u, w), 0),
    )


@triton.jit
def walk(
    base, first, last, scale, softcap, CAP: tl.constexpr, INTERPRETED: tl.constexpr, U: tl.constexpr, B: tl.constexpr
):
    """Return the triple of columns [first, last) of one row."""
    column = tl.arange(0, B)[None, :] + tl.arange(0, U)[:, None] * B
    m = tl.full([B], -1.0e30, tl.float32)
    s = tl.zeros([B], tl.float32)
    t = tl.zeros([B], tl.float32)
    whole = first + (last - first) // (U * B) * (U * B)
    for start in tl.range(first, whole, U * B, num_stages=1):
        x = load_logits(base + start + column, column, False, INTERPRETED)
        m, s, t = accumulate(capped(x, softcap, CAP), scale, m, s, t)
    if whole < last:
        inside = whole + column < last
        x = load_logits(base + whole + column, inside, True, INTERPRETED)
        x = tl.where(inside, capped(x, softcap, CAP), -1.0e37)
        m, s, t = accumulate(x, scale, m, s, t)
    top = tl.max(m, 0)
    delta = m - top
    shrink = tl.exp2(delta)
    return top, tl.sum(shrink * s, 0), tl.sum(shrink * tl.fma(delta, s, t), 0)


@triton.jit
def target_logit(base, target, inside, scale, softcap, top, CAP: tl.constexpr):
    """Return x_y - m of the target, -inf if it is not among these columns."""
    z = tl.load(base + target, mask=inside, other=-float("inf")).to(tl.float32)
    z = tl.where(inside, capped(z, softcap, CAP), -float("inf"))
    return tl.fma(z, scale, -top)


@triton.jit(do_not_specialize=["n", "vocab_start"], do_not_specialize_on_alignment=["targets", "inverse_temperature"])
def _stats(
    logits, targets, inverse_temperature, order, count, triples,
    row_stride, vocabulary, n, vocab_start, softcap,
    PER_ROW: tl.constexpr, CAP: tl.constexpr, MOMENTS: tl.constexpr, INTERPRETED: tl.constexpr,
    U: tl.constexpr, B: tl.constexpr,
):  # fmt: skip
    segment = tl.program_id(1)
    segments = tl.num_programs(1)
    span = tl.cdiv(tl.cdiv(vocabulary, segments), U * B) * (U * B)
    first = tl.minimum(segment * span, vocabulary)
    last = tl.minimum(first + span, vocabulary)
    active = tl.load(count)
    for i in tl.range(tl.program_id(0), active, tl.num_programs(0)):
        row = tl.load(order + i)
        scale = tl.load(inverse_temperature + (row if PER_ROW else 0)) * LOG2E
        base = logits + tl.cast(row, tl.int64) * row_stride
        if MOMENTS:
            top, s, t, u, w = walk_moments(base, first, last, scale, softcap, CAP, INTERPRETED, U, B)
        else:
            top, s, t = walk(base, first, last, scale, softcap, CAP, INTERPRETED, U, B)
        target = (tl.load(targets + row) - vocab_start).to(tl.int32)
        inside = (target >= first) & (target < last)
        x = target_logit(base, target, inside, scale, softcap, top, CAP)
        out = triples + segment * n + row
        tl.store(out, top)
        tl.store(out + segments * n, s)
        tl.store(out + 2 * segments * n, t)
        tl.store(out + 3 * segments * n, x)
        if MOMENTS:
            tl.store(out + 4 * segments * n, u)
            tl.store(out + 5 * segments * n, w)


@triton.jit(do_not_specialize=["n"])
def _merge(triples, order, count, out, n, segments, MOMENTS: tl.constexpr, B: tl.constexpr):
    i = tl.program_id(0) * B + tl.arange(0, B)
    row = tl.load(order + i, mask=i < n, other=0)
    on = i < tl.load(count)
    m = tl.full([B], -1.0e30, tl.float32)
    s = tl.zeros([B], tl.float32)
    t = tl.zeros([B], tl.float32)
    u = tl.zeros([B], tl.float32)
    w = tl.zeros([B], tl.float32)
    x = tl.full([B], -float("inf"), tl.float32)
    for k in tl.range(0, segments):
        place = triples + k * n + row
        m_k = tl.load(place, mask=on, other=0.0)
        s_k = tl.load(place + segments * n, mask=on, other=1.0)
        t_k = tl.load(place + 2 * segments * n, mask=on, other=0.0)
        x_k = tl.load(place + 3 * segments * n, mask=on, other=0.0)
        top = tl.maximum(m, m_k)
        a = tl.exp2(m - top)
        b = tl.exp2(m_k - top)
        t = a * tl.fma(m - top, s, t) + b * tl.fma(m_k - top, s_k, t_k)
        s = a * s + b * s_k
        if MOMENTS:
            u_k = tl.load(place + 4 * segments * n, mask=on, other=0.0)
            w_k = tl.load(place + 5 * segments * n, mask=on, other=0.0)
            w = a * a * tl.fma(m - top, u, w) + b * b * tl.fma(m_k - top, u_k, w_k)
            u = a * a * u + b * b * u_k
        x = tl.maximum(x + (m - top), x_k + (m_k - top))
        m = top
    empty = m <= -1.0e29  # not one finite logit
    log_s = tl.log2(tl.where(empty, 1.0, s))
    logp = tl.where(empty, -float("inf"), LN2 * (x - log_s))
    entropy = tl.where(empty, 0.0, LN2 * positive(log_s - t / s))
    tl.store(out + row, tl.where(on, logp, 0.0), mask=i < n)
    tl.store(out + n + row, tl.where(on, entropy, 0.0), mask=i < n)
    if MOMENTS:
        square = tl.where(empty, 1.0, s * s)
        third = tl.where(empty, 0.0, u / square)
        fourth = tl.where(empty, 0.0, LN2 * (w - u * log_s) / square)
    else:
        third = m
        fourth = log_s
    tl.store(out + 2 * n + row, tl.where(on, third, 0.0), mask=i < n)
    tl.store(out + 3 * n + row, tl.where(on, fourth, 0.0), mask=i < n)
