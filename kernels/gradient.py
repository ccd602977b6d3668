# mypy: allow-untyped-defs, allow-untyped-decorators, allow-untyped-calls, allow-incomplete-defs
# pyright: reportGeneralTypeIssues=false, reportCallIssue=false, reportArgumentType=false, reportAttributeAccessIssue=false
"""The gradient of the logits from the derivatives by log-prob and entropy, written over them or to another tensor.

With y_j = (z_j log2(e) / T - m) - log2 s, p_j = 2^y_j, g = dL/dlogp, h = dL/dH (both times the upstream scalar):

    dz_j = p_j (A + B y_j) + [j = target] g / T,   A = -(g + h H) / T,   B = -h ln2 / T
    softcap c: dz_j times 1 - (z_j / c)^2 with z the capped logit

The target's column is rewritten once, after the row, so that the loop has no comparison. A row is walked from right to
left: after a forward pass the cache still holds its right end, and a 16-bit gradient may then lie in the upper
half of the float32 row it is computed from.
"""

import torch
import triton
import triton.language as tl

from isentrope.kernels.base_2 import LN2, LOG2E
from isentrope.kernels.checks import INTERPRETED
from isentrope.kernels.row_list import compact, grid
from isentrope.kernels.stats import Stats, Tile, capped, load_logits


def tile_for(vocabulary: int) -> Tile:
    """Return the tile for a vocabulary."""
    return Tile(4, 1024, 4) if vocabulary >= 8192 else Tile(2, 256, 1)


def write_gradient(
    logits: torch.Tensor,
    targets: torch.Tensor,
    statistics: torch.Tensor,
    by_logp: torch.Tensor,
    by_entropy: torch.Tensor,
    upstream: torch.Tensor,
    inverse_temperature: torch.Tensor,
    softcap: float,
    out: torch.Tensor,
) -> None:
    """Write d loss / d logits to `out`, which may be `logits` itself. Rows without gradient are only filled with zeros.

    Args:
        logits: [M, V], any row stride. targets: [M] int64. statistics: [4, M], see `stats.Stats`.
        by_logp, by_entropy: [M] float32, derivatives without the upstream factor. upstream: [1], read on the device.
        out: [M, V], any row stride.
    """
    count, vocabulary = logits.shape
    stats = Stats(*statistics)
    rows = compact((by_logp != 0) | (by_entropy != 0))
    tile = tile_for(vocabulary)
    _gradient[(grid(count),)](
        logits, out, targets, stats.logp, stats.entropy, stats.top, stats.log_sum, by_logp, by_entropy, upstream,
        inverse_temperature, rows.order, rows.active, logits.stride(0), out.stride(0), vocabulary, count, softcap,
        PER_ROW=inverse_temperature.numel() > 1, CAP=softcap > 0, INTERPRETED=INTERPRETED,
        U=tile.unroll, B=tile.width, num_warps=tile.warps,
    )  # fmt: skip


@triton.jit
def slope(x, scale, top, a, b, softcap, CAP: tl.constexpr):
    """Return dz of columns whose raw logits are x, without the target's own term; `a`, `b`: see `write_row`."""
    z = capped(x, softcap, CAP)
    y = tl.fma(z, scale, -top)
    d = tl.exp2(y) * tl.fma(y, b, a)
    if CAP:
        d *= 1.0 - (z / softcap) * (z / softcap)
    return d


@triton.jit
def write_row(
    source, target_row, target, logp, entropy, top, log_sum, g, h, inverse, vocabulary, softcap,
    CAP: tl.constexpr, INTERPRETED: tl.constexpr, U: tl.constexpr, B: tl.constexpr,
):  # fmt: skip
    """Write the gradient of one row, from right to left."""
    scale = inverse * LOG2E
    a = -(g + h * entropy) * inverse
    b = -h * LN2 * inverse
    share = tl.exp2(-log_sum)  # log2 s leaves the loop: 2^(y - log2 s) (a + b (y - log2 s)) = 2^y (a' + b' y)
    inner_a = (a - b * log_sum) * share
    inner_b = b * share
    column = tl.arange(0, B)[None, :] + tl.arange(0, U)[:, None] * B
    whole = vocabulary // (U * B) * (U * B)
    if whole < vocabulary:
        inside = whole + column < vocabulary
        x = load_logits(source + whole + column, inside, True, INTERPRETED)
        if source.dtype.element_ty != target_row.dtype.element_ty:
            tl.debug_barrier()  # the two rows may share bytes: every read of a tile comes before its writes
        d = slope(x, scale, top, inner_a, inner_b, softcap, CAP)
        tl.store(target_row + whole + column, d.to(target_row.dtype.element_ty), mask=inside)
    for left in tl.range(0, whole, U * B, num_stages=1):
        start = whole - U * B - left
        x = load_logits(source + start + column, column, False, INTERPRETED)
        if source.dtype.element_ty != target_row.dtype.element_ty:
            tl.debug_barrier()
        d = slope(x, scale, top, inner_a, inner_b, softcap, CAP)
        tl.store(target_row + start + column, d.to(target_row.dtype.element_ty), eviction_policy="evict_first")
    tl.debug_barrier()
    y = logp * LOG2E
    d = tl.exp2(y) * tl.fma(y, b, a) + g * inverse
    if CAP:
        ratio = (y + log_sum + top) / (scale * softcap)
        d *= 1.0 - ratio * ratio
    inside = (target >= 0) & (target < vocabulary)
    tl.store(target_row + target, d.to(target_row.dtype.element_ty), mask=inside)


@triton.jit
def clear_row(target_row, vocabulary, U: tl.constexpr, B: tl.constexpr):
    """Write a row of zeros."""
    column = tl.arange(0, U * B)
    for start in tl.range(0, vocabulary, U * B, num_stages=1):
        zero = tl.zeros([U * B], target_row.dtype.element_ty)
        tl.store(target_row + start + column, zero, mask=start + column < vocabulary)


@triton.jit(
    do_not_specialize=["n"],
    do_not_specialize_on_alignment=[
        "targets", "logp", "entropy", "top", "log_sum", "by_logp", "by_entropy", "upstream", "inverse_temperature",
    ],
)  # fmt: skip
def _gradient(
    logits, out, targets, logp, entropy, top, log_sum, by_logp, by_entropy, upstream,
    inverse_temperature, order, count, row_stride, out_stride, vocabulary, n, softcap,
    PER_ROW: tl.constexpr, CAP: tl.constexpr, INTERPRETED: tl.constexpr, U: tl.constexpr, B: tl.constexpr,
):  # fmt: skip
    active = tl.load(count)
    factor = tl.load(upstream).to(tl.float32)
    for i in tl.range(tl.program_id(0), n, tl.num_programs(0)):
        row = tl.load(order + i)
        target_row = out + tl.cast(row, tl.int64) * out_stride
        if i >= active:
            clear_row(target_row, vocabulary, U, B)
        else:
            inverse = tl.load(inverse_temperature + (row if PER_ROW else 0))
            write_row(
                logits + tl.cast(row, tl.int64) * row_stride, target_row, tl.load(targets + row),
                tl.load(logp + row), tl.load(entropy + row), tl.load(top + row), tl.load(log_sum + row),
                factor * tl.load(by_logp + row), factor * tl.load(by_entropy + row),
                inverse, vocabulary, softcap, CAP, INTERPRETED, U, B,
            )  # fmt: skip
