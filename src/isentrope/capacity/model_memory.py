"""Memory of a model in training, from its configuration: parameters, their optimizer, and saved activations."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

LOGIT_BYTES = 4
_MASTER_BYTES = 12
"""Optimizer's state of a parameter: its float32 value and two moments."""


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """Facts of a model that decide its memory."""

    parameters: int
    itemsize: int
    """Bytes of one number."""
    layers: int
    hidden: int
    layer_bytes: int
    """Activations that one layer saves for each token."""
    rest_bytes: int
    """Activations for each token outside the layers: the last norm, ids, and the angles of a row's places, as if no two
    rows were in one micro-batch."""
    vocabulary: int

    @property
    def size_bytes(self) -> int:
        """Size of the weights, as a version has them."""
        return self.parameters * self.itemsize


def model_facts(config: "PreTrainedConfig", dtype: str) -> ModelFacts:
    """Return the facts of the model that `config` describes; nothing of it is loaded."""
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        network = AutoModelForCausalLM.from_config(config)
    itemsize = getattr(torch, dtype).itemsize
    hidden = int(config.hidden_size)
    return ModelFacts(
        parameters=sum(each.numel() for each in network.parameters()),
        itemsize=itemsize,
        layers=int(config.num_hidden_layers),
        hidden=hidden,
        layer_bytes=_layer_bytes(config, itemsize),
        rest_bytes=_norm_bytes(hidden, itemsize) + 8 + 2 * _head_size(config) * itemsize,
        vocabulary=int(config.vocab_size),
    )


def training_bytes(facts: ModelFacts, *, ranks: int, zero_stage: int) -> int:
    """Return the memory of weights, gradients and optimizer on each of `ranks`."""
    size = facts.size_bytes
    weights = size // ranks if zero_stage == 3 else size
    gradients = size // ranks if zero_stage >= 2 else size
    optimizer = facts.parameters * _MASTER_BYTES // (ranks if zero_stage else 1)
    return weights + gradients + optimizer


def activation_bytes(facts: ModelFacts, *, tokens: int, checkpointing: bool) -> int:
    """Return the memory of what a forward pass over `tokens` saves, with the logits in float32, and
    their gradient in the model's format."""
    layers = facts.layers * (facts.hidden * facts.itemsize if checkpointing else facts.layer_bytes)
    recomputed = facts.layer_bytes if checkpointing else 0
    logits = facts.vocabulary * (LOGIT_BYTES + facts.itemsize)
    return tokens * (layers + recomputed + facts.rest_bytes + logits)


def _norm_bytes(width: int, itemsize: int) -> int:
    """Return what a norm saves of a token: its input in float32, the root mean square, the normalised value."""
    return 2 * width * 4 + 4 if itemsize == 4 else width * 4 + 4 + width * itemsize


def _head_size(config: "PreTrainedConfig") -> int:
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def _layer_bytes(config: "PreTrainedConfig", itemsize: int) -> int:
    """Return the activations of one layer and token: two norms with their outputs, the MLP, queries, keys, values,
    context and the attention's logarithms; exact for dense models of the kinds of Llama and Qwen, else an estimate."""
    hidden, heads = int(config.hidden_size), int(config.num_attention_heads)
    inner = int(getattr(config, "intermediate_size", None) or 4 * hidden)
    groups = int(getattr(config, "num_key_value_heads", None) or heads)
    head = _head_size(config)
    saved = 2 * (_norm_bytes(hidden, itemsize) + hidden * itemsize) + 4 * inner * itemsize
    saved += 2 * (heads + groups) * head * itemsize + 4 * heads
    return saved + ((heads + groups) * _norm_bytes(head, itemsize) if "qwen3" in config.model_type else 0)
