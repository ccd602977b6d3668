"""Activations of the formula, against what a forward pass of small models saves; parameters and their division."""

from typing import Any

import pytest
import torch
from transformers import AutoModel, LlamaConfig, PreTrainedConfig, Qwen2Config, Qwen3Config

from isentrope.capacity.model_memory import ModelFacts, activation_bytes, model_facts, training_bytes

TOKENS = 24
SIZE: dict[str, Any] = {
    "vocab_size": 50,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
}


def saved_bytes(config: PreTrainedConfig, dtype: torch.dtype) -> int:
    """Bytes of the storages that a forward pass over one row saves, parameters left out."""
    network = AutoModel.from_config(config, attn_implementation="sdpa").to(dtype)
    own = {each.untyped_storage().data_ptr() for each in network.parameters()}
    seen: dict[int, int] = {}

    def pack(value: torch.Tensor) -> torch.Tensor:
        storage = value.untyped_storage()
        if storage.data_ptr() not in own:
            seen[storage.data_ptr()] = storage.nbytes()
        return value

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
        result = network(torch.arange(TOKENS)[None], use_cache=False)
    assert result.last_hidden_state.requires_grad
    return sum(seen.values())


@pytest.mark.parametrize("kind", [LlamaConfig, Qwen2Config, Qwen3Config])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_activations_are_what_a_forward_pass_saves(kind: type[PreTrainedConfig], dtype: str) -> None:
    config = kind(**SIZE)
    facts = model_facts(config, dtype)
    logits = TOKENS * facts.vocabulary * (4 + facts.itemsize)
    planned = activation_bytes(facts, tokens=TOKENS, checkpointing=False) - logits
    assert planned == pytest.approx(saved_bytes(config, getattr(torch, dtype)), rel=1e-9)


def test_parameters_are_counted_without_loading_them() -> None:
    config = LlamaConfig(**SIZE)
    facts = model_facts(config, "bfloat16")
    network = AutoModel.from_config(config)
    head = 50 * 64
    assert facts.parameters == sum(each.numel() for each in network.parameters()) + head
    assert facts.size_bytes == 2 * facts.parameters


def test_each_stage_divides_more_among_the_ranks() -> None:
    facts = ModelFacts(1000, 2, 2, 8, 0, 0, 50)
    whole = [training_bytes(facts, ranks=4, zero_stage=stage) for stage in range(4)]
    assert whole == [16000, 7000, 5500, 4000]
    assert [training_bytes(facts, ranks=1, zero_stage=stage) for stage in range(4)] == [16000] * 4


def test_checkpointing_keeps_the_input_of_every_layer_and_one_layer_whole() -> None:
    facts = ModelFacts(1000, 2, layers=10, hidden=8, layer_bytes=500, rest_bytes=0, vocabulary=0)
    assert activation_bytes(facts, tokens=3, checkpointing=False) == 3 * 5000
    assert activation_bytes(facts, tokens=3, checkpointing=True) == 3 * (10 * 16 + 500)
