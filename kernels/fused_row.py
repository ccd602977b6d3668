# mypy: allow-untyped-defs, allow-untyped-decorators, allow-untyped-calls, allow-incomplete-defs
# pyright: reportGeneralTypeIssues=false, reportCallIssue=false, reportArgumentType=false, reportAttributeAccessIssue=false
# pyright: reportOperatorIssue=false
"""Row-fused form: statistics, rules and gradient of a row in one program, for losses whose verdicts are row-local or
already known. The gradient replaces the logits, or goes to another tensor.

The row is read twice, the second time from its right end: with one program per multiprocessor some 40 MB of rows are in
flight, which an H200's L2 holds, so most of the second read should not reach memory. The upstream factor is not known
yet; `scale_gradient` applies it later and returns at once where it is 1.
"""

import torch
import triton
import triton.language as tl

from isentrope.kernels.base_2 import LN2, LOG2E
from isentrope.kernels.checks import INTERPRETED
from isentrope.kernels.gradient import clear_row, write_row
from isentrope.kernels.policy import TokenInputs, token_policy
from isentrope.kernels.row_list import compact
from isentrope.kernels.stats import Tile, positive, target_logit, walk

PROGRAMS = 132
"""One program per multiprocessor of an H100 or H200, so that their rows fit the second-level cache."""


def tile_for(vocabulary: int, dtype: torch.dtype) -> Tile:
    """Return the tile for a vocabulary: a whole multiprocessor on one row. Float32 spills with 8 slices."""
    if vocabulary >= 32768:
        return Tile(4 if dtype == torch.float32 else 8, 4096, 16)
    return Tile(4, 256, 1)


def fuse_rows(
    logits: torch.Tensor,
    targets: torch.Tensor,
    tokens: TokenInputs,
    rules: tuple[float, float, float, float, float, float],
    action: int,
    inverse_temperature: torch.Tensor,
    softcap: float,
    out: torch.Tensor,
) -> torch.Tensor:
    """Write d loss / d logits to `out` [M, V] (may be `logits`) for an upstream factor of 1.

    Args:
        rules: `LossRules.scalars()`. action: one of `policy.ACTIONS`.

    Returns [3, M] float32: loss, logp and entropy of every token. Tokens that must not count are not read: all zero.
    """
    count, vocabulary = logits.shape
    rows = compact(tokens.mask)
    result = torch.zeros(3, count, dtype=torch.float32, device=logits.device)
    tile = tile_for(vocabulary, logits.dtype)
    selected = tokens.mask if tokens.selected is None else tokens.selected  # not read where action is 0
    _row[(max(1, min(count, PROGRAMS)),)](
        logits, out, targets, tokens.advantage, tokens.logp_old, tokens.weight, selected.view(torch.uint8),
        tokens.normalizer, inverse_temperature, rows.order, rows.active, result,
        logits.stride(0), out.stride(0), vocabulary, count, softcap, action, *rules,
        PER_ROW=inverse_temperature.numel() > 1, CAP=softcap > 0, INTERPRETED=INTERPRETED,
        U=tile.unroll, B=tile.width, num_warps=tile.warps,
    )  # fmt: skip
    return result


def scale_gradient(gradient: torch.Tensor, upstream: torch.Tensor) -> None:
    """Multiply `gradient` [M, V] by the scalar `upstream` [1] in place; nothing is read where it is 1."""
    count, columns = gradient.shape
    _scale[(count, triton.cdiv(columns, 4096))](gradient, upstream, gradient.stride(0), columns, B=4096, num_warps=4)


@triton.jit(
    do_not_specialize=["n", "action"],
    do_not_specialize_on_alignment=[
        "targets", "advantage", "logp_old", "weight", "selected", "normalizer", "inverse_temperature",
    ],
)  # fmt: skip
def _row(
    logits, out, targets, advantage, logp_old, weight, selected, normalizer, inverse_temperature, order, count, result,
    row_stride, out_stride, vocabulary, n, softcap, action, low, high, dual, kl_coef, entropy_coef, clamp,
    PER_ROW: tl.constexpr, CAP: tl.constexpr, INTERPRETED: tl.constexpr, U: tl.constexpr, B: tl.constexpr,
):  # fmt: skip
    active = tl.load(count)
    scale = tl.load(normalizer).to(tl.float32)
    for i in tl.range(tl.program_id(0), n, tl.num_programs(0)):
        row = tl.load(order + i)
        target_row = out + tl.cast(row, tl.int64) * out_stride
        if i >= active:
            clear_row(target_row, vocabulary, U, B)
        else:
            inverse = tl.load(inverse_temperature + (row if PER_ROW else 0))
            base = logits + tl.cast(row, tl.int64) * row_stride
            target = tl.load(targets + row)
            to_log2 = inverse * LOG2E
            top, s, t = walk(base, 0, vocabulary, to_log2, softcap, CAP, INTERPRETED, U, B)
            inside = (target >= 0) & (target < vocabulary)
            x = target_logit(base, target, inside, to_log2, softcap, top, CAP)
            empty = top <= -1.0e29
            log_sum = tl.log2(tl.where(empty, 1.0, s))
            logp = tl.where(empty, -float("inf"), LN2 * (x - log_sum))
            entropy = tl.where(empty, 0.0, LN2 * positive(log_sum - t / s))
            loss, g, h = token_policy(
                logp, entropy, tl.load(advantage + row), tl.load(logp_old + row), tl.load(weight + row),
                tl.load(selected + row).to(tl.float32), tl.where(empty, 0.0, scale), action,
                low, high, dual, kl_coef, entropy_coef, clamp,
            )  # fmt: skip
            tl.store(result + row, loss)
            tl.store(result + n + row, logp)
            tl.store(result + 2 * n + row, entropy)
            if (g != 0) | (h != 0):
                tl.debug_barrier()  # the target's logit is read before anything is written over it
                write_row(
                    base, target_row, target, logp, entropy, top, log_sum, g, h, inverse, vocabulary, softcap,
                    CAP, INTERPRETED, U, B,
                )  # fmt: skip
            else:
                tl.debug_barrier()
                clear_row(target_row, vocabulary, U, B)


@triton.jit(do_not_specialize_on_alignment=["upstream"])
def _scale(gradient, upstream, row_stride, columns, B: tl.constexpr):
    factor = tl.load(upstream).to(tl.float32)
    if factor != 1.0:
        place = gradient + tl.cast(tl.program_id(0), tl.int64) * row_stride
        column = tl.program_id(1) * B + tl.arange(0, B)
        value = tl.load(place + column, mask=column < columns).to(tl.float32) * factor
        tl.store(place + column, value.to(gradient.dtype.element_ty), mask=column < columns)
