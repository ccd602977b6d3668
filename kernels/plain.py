"""Plain PyTorch twins of the fused kernels: used on the CPU, and as ground truth in tests.

Letters: M packed tokens, V vocabulary. Statistics are float32 (float64 for float64 logits) for every dtype of the
logits, and rows are processed in chunks, so that beyond the logits and their gradient no [M, V] tensor exists.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

CHUNK_ELEMENTS = 1 << 22
"""Logits per chunk: 16 MiB of float32 temporaries."""

LOWEST = -300.0
"""Floor of a log-probability, so that a masked vocabulary entry (logit -inf) never makes 0 * -inf."""


class Moments(NamedTuple):
    """Statistics of the full next-token distribution, all [M]: logp of the target, entropy, and the sums over the
    vocabulary of p^2 and of p^2 log p."""

    logp: Tensor
    entropy: Tensor
    sum_p2: Tensor
    sum_p2_logp: Tensor


def logp_entropy(logits: Tensor, targets: Tensor, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    """Return the log-probability of the targets and entropy of the full distribution, differentiable.

    logits: [M, V]; targets: [M] int64; both results [M], in nats, of softmax(logits / temperature).
    """
    logp, entropy = _LogpEntropy.apply(logits, targets, temperature)  # type: ignore[no-untyped-call]
    return logp, entropy


@torch.no_grad()
def moments(logits: Tensor, targets: Tensor, temperature: float = 1.0) -> Moments:
    """Return `logp_entropy` without gradient, and the two sums that exact entropy changes and baselines need."""
    wide = _wide(logits.dtype)
    out = [torch.empty(len(targets), dtype=wide, device=logits.device) for _ in range(4)]
    for rows in _chunks(logits):
        y = _log_softmax(logits[rows], temperature)
        p = y.exp()
        out[0][rows] = y.gather(1, targets[rows, None])[:, 0]
        out[1][rows] = -(p * y).sum(1)
        out[2][rows] = p.square().sum(1)
        out[3][rows] = (p.square() * y).sum(1)
    return Moments(*out)


class _LogpEntropy(torch.autograd.Function):
    """Log-prob and entropy; saves the logits and two numbers per row instead of the softmax."""

    @staticmethod
    def forward(ctx: FunctionCtx, logits: Tensor, targets: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        wide = _wide(logits.dtype)
        logp = torch.empty(len(targets), dtype=wide, device=logits.device)
        entropy = torch.empty_like(logp)
        for rows in _chunks(logits):
            y = _log_softmax(logits[rows], temperature)
            logp[rows] = y.gather(1, targets[rows, None])[:, 0]
            entropy[rows] = -(y.exp() * y).sum(1)
        ctx.save_for_backward(logits, targets, entropy)
        ctx.temperature = temperature  # type: ignore[attr-defined]
        return logp, entropy

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: FunctionCtx, grad_logp: Tensor, grad_entropy: Tensor
    ) -> tuple[Tensor, None, None]:
        logits, targets, entropy = ctx.saved_tensors  # type: ignore[attr-defined]
        temperature: float = ctx.temperature  # type: ignore[attr-defined]
        grad = torch.empty_like(logits)
        for rows in _chunks(logits):
            y = _log_softmax(logits[rows], temperature)
            g, h = grad_logp[rows, None], grad_entropy[rows, None]
            # d logp / dz = onehot - p,  d H / dz = -p (log p + H)
            dz = -y.exp() * (g + h * (y + entropy[rows, None]))
            dz.scatter_add_(1, targets[rows, None], g)
            grad[rows] = (dz / temperature).to(grad.dtype)
        return grad, None, None


def _log_softmax(logits: Tensor, temperature: float) -> Tensor:
    wide = logits.to(_wide(logits.dtype)) / temperature
    return torch.log_softmax(wide, dim=1).clamp_min(LOWEST)


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def _chunks(logits: Tensor) -> list[slice]:
    size = max(1, CHUNK_ELEMENTS // logits.shape[1])
    return [slice(start, start + size) for start in range(0, len(logits), size)]
