"""Attention of packed rows: which implementation a model is loaded with, and PyTorch's own as one of them.

On a GPU rows lie end to end, and attention is told where each starts: padded to the longest of a micro-batch, they
would be 1.5 to 4.9 times as many tokens. On a CPU a rectangle is faster. M packed tokens, H heads, D of each.
"""

import logging
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import varlen
from transformers import AttentionInterface, PreTrainedModel
from transformers.utils.import_utils import is_flash_attn_2_available, is_flash_attn_3_available

PADDED = "sdpa"
"""Rows padded to a rectangle, which attention sees as a batch."""
VARLEN = "torch_varlen"
"""Packed rows by PyTorch's `varlen_attn`, or one after another where that has no kernel."""
FLASH = {"flash_attention_3": is_flash_attn_3_available, "flash_attention_2": is_flash_attn_2_available}
"""Packed rows by flash-attn, the first that is installed."""

HALF = (torch.bfloat16, torch.float16)
UNKNOWN = ("s_aux", "position_bias", "softcap")
"""Terms that some models give attention and `varlen_attn` has not."""

logger = logging.getLogger(__name__)


def attention(model: type[PreTrainedModel], device: torch.device, dtype: torch.dtype) -> str:
    """Return the implementation of attention, as Transformers names it: packed rows on a GPU, padded ones on a CPU and
    for models whose attention cannot be chosen; log it.

    Transformers is asked for flash-attn: a module of that name may also be another package's, with nothing to use.
    """
    if device.type != "cuda":
        return PADDED
    if not (getattr(model, "_supports_flash_attn", False) and getattr(model, "_supports_attention_backend", False)):
        logger.warning("rows are padded to the longest of each micro-batch: %s has its own attention", model.__name__)
        return PADDED
    found = [name for name, available in FLASH.items() if dtype in HALF and available()]
    chosen = found[0] if found else VARLEN
    logger.info("rows are trained packed, by %s", chosen)
    return chosen


def varlen_attention(  # noqa: PLR0913  (Transformers' own signature)
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Return causal attention within rows [1, M, H, D], as Transformers' `AttentionInterface` has it: of queries
    [1, H, M, D], and keys and values of as many heads or fewer. `cu_seq_lens_q` are the starts of rows and M; without
    them each row of a batch is one.

    Raises:
        NotImplementedError: the model gives a term that this attention does not have.
    """
    if given := [name for name in UNKNOWN if others.get(name) is not None]:
        raise NotImplementedError(f"attention with {', '.join(given)} cannot be packed")
    batch, _, length, width = query.shape
    starts, longest = others.get("cu_seq_lens_q"), others.get("max_length_q", length)
    if starts is None:
        starts = torch.arange(0, (batch + 1) * length, length, dtype=torch.int32, device=query.device)
    query, key, value = (each.transpose(1, 2).flatten(0, 1) for each in (query, key, value))
    narrow = value.shape[-1]
    if narrow < width:  # kernels take one width
        value = functional.pad(value, (0, width - narrow))
    if query.is_cuda and query.dtype in HALF:
        window = (-1 if sliding_window is None else sliding_window - 1, 0)
        out = varlen.varlen_attn(
            query, key, value, starts, starts, longest, longest, scale=scaling, window_size=window, enable_gqa=True
        )
        assert isinstance(out, Tensor)
    else:
        out = row_by_row(query, key, value, starts, scaling, sliding_window)
    return out.narrow(-1, 0, narrow).unflatten(0, (batch, length)), None


def row_by_row(  # noqa: PLR0913  (those of an attention)
    query: Tensor, key: Tensor, value: Tensor, starts: Tensor, scale: float | None, window: int | None
) -> Tensor:
    """Return the same [M, H, D], of tensors [M, H, D], by a call for each row."""
    parts = []
    for row in zip(*(each.split(starts.diff().tolist()) for each in (query, key, value)), strict=True):
        q, k, v = (each.transpose(0, 1) for each in row)
        mask = _band(q.shape[1], window, q.device) if window is not None and window < q.shape[1] else None
        out = functional.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=mask is None, scale=scale, enable_gqa=True
        )
        parts.append(out.transpose(0, 1))
    return torch.cat(parts)


def _band(length: int, window: int, device: torch.device) -> Tensor:
    """Return what each token sees [length, length]: itself and the window - 1 before it."""
    place = torch.arange(length, device=device)
    back = place[:, None] - place
    return (back >= 0) & (back < window)


AttentionInterface.register(VARLEN, varlen_attention)
