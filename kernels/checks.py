"""What every kernel demands of its tensors, and the one error that says which demand was broken. Knows no maths.

Checks look at shapes, strides, types and devices only: nothing here waits for the device. The values of `targets` are
therefore looked at on the CPU alone; on a GPU a target outside the vocabulary gives a
log-probability of -inf.
"""

from collections.abc import Mapping

import torch
import triton

from isentrope.errors import ArgumentError

INTERPRETED: bool = triton.knobs.runtime.interpret  # pyright: ignore[reportAttributeAccessIssue]
"""Whether kernels run in Triton's interpreter, on any device; decided when this is imported."""

LOGIT_TYPES = (torch.float32, torch.bfloat16, torch.float16)
FLOAT_TYPES = (*LOGIT_TYPES, torch.float64)
"""Of numbers per token; they are used as float32."""


def check_logits(logits: torch.Tensor, targets: torch.Tensor) -> None:
    """`logits` [M, V] of a supported type with unit stride over V, `targets` [M] int64 on the same device."""
    if logits.dim() != 2:
        raise ArgumentError(f"logits: shape {tuple(logits.shape)}, [tokens, vocabulary] is needed")
    if logits.dtype not in LOGIT_TYPES:
        raise ArgumentError(
            f"logits: {logits.dtype}, one of {', '.join(map(str, LOGIT_TYPES))} is allowed",
            fix="use isentrope.kernels.plain for float64",
        )
    if logits.shape[1] == 0:
        raise ArgumentError("logits: an empty vocabulary")
    if logits.stride(1) != 1 and logits.shape[1] > 1:
        raise ArgumentError(
            f"logits: stride {logits.stride(1)} over the vocabulary, 1 is needed (rows may have any stride)",
            fix="pass logits.contiguous()",
        )
    if logits.shape[0] > 1 and logits.stride(0) < logits.shape[1]:
        raise ArgumentError(f"logits: rows overlap (stride {logits.stride(0)} for {logits.shape[1]} columns)")
    check_device(logits.device)
    check_tokens(logits.shape[0], logits.device, {"targets": targets})
    check_types({"targets": targets}, allowed=(torch.int64,))


def check_device(device: torch.device) -> None:
    """A GPU; any device where kernels are interpreted."""
    if device.type != "cuda" and not INTERPRETED:
        raise ArgumentError(
            f"tensors on {device}: a CUDA device is needed", fix="use isentrope.kernels.plain on other devices"
        )


def check_targets(targets: torch.Tensor, vocabulary: int) -> None:
    """On the CPU: all of `targets` are in [0, vocabulary). On a GPU this would wait for the device, so it is left out.

    Called inside the operators, where a compiler does not trace.
    """
    if targets.device.type == "cpu" and targets.numel():
        low, high = int(targets.min()), int(targets.max())
        if low < 0 or high >= vocabulary:
            wrong = low if low < 0 else high
            raise ArgumentError(f"targets: {wrong} is outside the vocabulary, 0 to {vocabulary - 1} are allowed")


def check_tokens(count: int, device: torch.device, tensors: Mapping[str, torch.Tensor | None]) -> None:
    """Each given tensor is [count] on `device`."""
    for name, tensor in tensors.items():
        if tensor is None:
            continue
        if tensor.shape != (count,):
            raise ArgumentError(f"{name}: shape {tuple(tensor.shape)}, ({count},) is needed")
        if tensor.device != device:
            raise ArgumentError(f"{name}: on {tensor.device}, {device} is needed")


def check_overwritable(logits: torch.Tensor, inplace: bool) -> None:
    """The gradient may take the place of `logits`: not where they are what the caller differentiates by."""
    if inplace and logits.is_leaf and logits.requires_grad and torch.is_grad_enabled():
        raise ArgumentError(
            "logits: a leaf that requires a gradient, which inplace would replace its values by", fix="inplace=False"
        )


def check_types(tensors: Mapping[str, torch.Tensor | None], *, allowed: tuple[torch.dtype, ...]) -> None:
    """Each given tensor has one of the `allowed` types."""
    for name, tensor in tensors.items():
        if tensor is not None and tensor.dtype not in allowed:
            raise ArgumentError(f"{name}: {tensor.dtype}, {' or '.join(map(str, allowed))} is needed")


def check_not_empty(count: int) -> None:
    """At least one token."""
    if count == 0:
        raise ArgumentError("logits: no tokens", fix="skip the call when a batch is empty")
