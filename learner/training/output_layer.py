"""The output layer with float32 logits, whatever the model's number format: as the engine computes them.

Logits rounded to bfloat16 put noise of about .005 nats into the ratio of two policies, as much as a small step of
training moves it. K targets, D hidden, V vocabulary.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel


def widen(network: PreTrainedModel) -> None:
    """Set an output layer on the same parameters that returns float32, where the model has 16 bits."""
    head = network.get_output_embeddings()
    if isinstance(head, nn.Linear) and head.weight.dtype != torch.float32:
        network.set_output_embeddings(Float32Logits(head))


class Float32Logits(nn.Linear):
    """A linear layer of 16 bits that returns its sums as they are added up, in float32."""

    def __init__(self, layer: nn.Linear) -> None:
        """Take over the parameters of a layer."""
        super().__init__(layer.in_features, layer.out_features, bias=layer.bias is not None, device="meta")
        self.weight, self.bias = layer.weight, layer.bias

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  (the name that torch gives it)
        """Return [..., V] float32, of [..., D]."""
        logits: Tensor = _Product.apply(input.flatten(0, -2), self.weight)  # type: ignore[no-untyped-call]
        if self.bias is not None:
            logits = logits + self.bias
        shaped: Tensor = logits.unflatten(0, input.shape[:-1])
        return shaped


class _Product(torch.autograd.Function):
    """hidden [K, D] and weight [V, D] of 16 bits -> logits [K, V] float32."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(hidden, weight)
        if hidden.is_cuda:
            return torch.mm(hidden, weight.T, out_dtype=torch.float32)
        return hidden.float() @ weight.T.float()  # the CPU's product cannot widen

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        hidden, weight = ctx.saved_tensors
        narrow = gradients[0].to(weight.dtype)
        return narrow @ weight, narrow.T @ hidden
