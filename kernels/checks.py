"""Checks of the tensors that kernels take, and the error that names the broken rule.

Checks read shapes, strides, types and devices only: they never wait for the device. The values of `targets` are
therefore checked on the CPU alone; on a GPU a target outside the vocabulary gives a log-probability of -inf.
"""

from collections.abc import Mapping

import torch
import triton

from isentrope.errors import ArgumentError

INTERPRETED: bool = triton.knobs.runtime.interpret  # pyright: ignore[reportAttributeAccessIssue]
"""True if kernels run in Triton's interpreter, on any device; set when this module is imported."""

LOGIT_TYPES = (torch.float32, torch.bfloat16, torch.float16)
FLOAT_TYPES = (*LOGIT_TYPES, torch.float64)
"""Types of numbers per token; they are used as float32."""


def check_logits(logits: torch.Tensor, targets: torch.Tensor) -> None:
    """Require `logits` [M, V] of a supported type with unit stride over V, `targets` [M] int64 on the same device."""
    if logits.dim() != 2:
        raise ArgumentError(f"logits: shape {tuple(logits.shape)}, [tokens, vocabulary] is needed")
    if logits.dtype not in LOGIT_TYPES:
        raise ArgumentError(
            f"logits: {logits.dtype}, one of {', '.join(map(str, LOGIT_TYPES))} is allowed",
            fix="use isentrope.kernels.plain for float64",
        )
    if logits.shape[1] == 0:
        raise ArgumentError("logits: an empty vocabulary, at least one column is needed")
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
    """Require a GPU; any device where kernels are interpreted."""
    if device.type != "cuda" and not INTERPRETED:
        raise ArgumentError(
            f"tensors on {device}: a CUDA device is needed", fix="use isentrope.kernels.plain on other devices"
        )


def check_targets(targets: torch.Tensor, vocabulary: int) -> None:
    """Require `targets` in [0, vocabulary), on the CPU; on a GPU this would wait for the device, so it is left out.

    Called inside the operators, where a compiler does not trace.
    """
    if targets.device.type == "cpu" and targets.numel():
        low, high = int(targets.min()), int(targets.max())
        if low < 0 or high >= vocabulary:
            wrong = low if low < 0 else high
            raise ArgumentError(f"targets: {wrong} is outside the vocabulary, 0 to {vocabulary - 1} are allowed")


def check_tokens(count: int, device: torch.device, tensors: Mapping[str, torch.Tensor | None]) -> None:
    """Require each given tensor to be [count] on `device`."""
    for name, tensor in tensors.items():
        if tensor is None:
            continue
        if tensor.shape != (count,):
            raise ArgumentError(f"{name}: shape {tuple(tensor.shape)}, ({count},) is needed")
        if tensor.device != device:
            raise ArgumentError(f"{name}: on {tensor.device}, {device} is needed")


def check_softcap(softcap: float) -> None:
    """Require a cap of 0 (none) or more."""
    if softcap < 0:
        raise ArgumentError(f"softcap: {softcap}, 0 (none) or more is needed")


def check_overwritable(logits: torch.Tensor, inplace: bool) -> None:
    """Require that the gradient may replace `logits`: not a leaf that the caller differentiates by."""
    if inplace and logits.is_leaf and logits.requires_grad and torch.is_grad_enabled():
        raise ArgumentError(
            "logits: a leaf that requires a gradient, and inplace would overwrite its values", fix="inplace=False"
        )


def check_types(tensors: Mapping[str, torch.Tensor | None], *, allowed: tuple[torch.dtype, ...]) -> None:
    """Require each given tensor to have one of the `allowed` types."""
    for name, tensor in tensors.items():
        if tensor is not None and tensor.dtype not in allowed:
            raise ArgumentError(f"{name}: {tensor.dtype}, {' or '.join(map(str, allowed))} is needed")


def check_not_empty(count: int) -> None:
    """Require at least one token."""
    if count == 0:
        raise ArgumentError("logits: no tokens", fix="skip the call when a batch is empty")
