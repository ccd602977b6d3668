"""Tiny random models of many architectures: small enough for a test, and of sizes that vLLM computes on a CPU."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

VOCABULARY = 320
LENGTH = 128
"""Longest sequence."""

SCALE = 3.0
"""Factor of all matrices: fresh ones give distributions that are nearly uniform, whatever is wrong with them."""

NOISE = 0.02
"""Added to every weight, because equal norms and empty biases could be exchanged unseen."""

SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": LENGTH,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": None,
}
WITH_HEADS = SIZES | {"head_dim": 32}
EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 64}


def _of(kind: str, **settings: Any) -> Callable[[], PretrainedConfig]:
    """Return a function that makes a configuration, since importing every architecture at once is slow."""

    def make() -> PretrainedConfig:
        import transformers

        config: PretrainedConfig = getattr(transformers, f"{kind}Config")(**settings)
        return config

    return make


CONFIGS: dict[str, Callable[[], PretrainedConfig]] = {
    "llama": _of("Llama", tie_word_embeddings=False, **WITH_HEADS),
    "qwen2": _of("Qwen2", tie_word_embeddings=True, **SIZES),
    "qwen3": _of("Qwen3", tie_word_embeddings=True, **WITH_HEADS),
    "gemma2": _of("Gemma2", sliding_window=16, query_pre_attn_scalar=32, attn_logit_softcapping=50.0, **WITH_HEADS),
    "gemma3": _of(
        "Gemma3Text",
        sliding_window=16,
        query_pre_attn_scalar=32,
        layer_types=["sliding_attention", "full_attention"],
        **WITH_HEADS,
    ),
    "gpt2": _of(
        "GPT2",
        vocab_size=VOCABULARY,
        n_positions=LENGTH,
        n_embd=64,
        n_layer=2,
        n_head=2,
        bos_token_id=0,
        eos_token_id=1,
    ),
    "qwen3_moe": _of("Qwen3Moe", num_experts=4, norm_topk_prob=True, mlp_only_layers=[], **EXPERTS, **WITH_HEADS),
    "mixtral": _of("Mixtral", num_local_experts=4, num_experts_per_tok=2, sliding_window=None, **WITH_HEADS),
    "olmoe": _of("Olmoe", num_experts=4, num_experts_per_tok=2, **SIZES),
    "glm4_moe": _of("Glm4Moe", n_routed_experts=4, first_k_dense_replace=1, **EXPERTS, **WITH_HEADS),
    "deepseek_v3": _of(
        "DeepseekV3",
        n_routed_experts=4,
        n_group=1,
        topk_group=1,
        first_k_dense_replace=1,
        topk_method="noaux_tc",
        scoring_func="sigmoid",
        kv_lora_rank=512,
        q_lora_rank=32,
        qk_rope_head_dim=64,
        qk_nope_head_dim=32,
        v_head_dim=32,
        **EXPERTS,
        **SIZES | {"num_key_value_heads": 2},
    ),
    "mistral": _of("Mistral", sliding_window=16, **WITH_HEADS),
    "phi": _of("Phi", **{name: size for name, size in SIZES.items() if name != "num_key_value_heads"}),
    "granite": _of("Granite", logits_scaling=8.0, **SIZES),
    "olmo2": _of("Olmo2", **SIZES),
    "opt": _of(
        "OPT",
        vocab_size=VOCABULARY,
        hidden_size=64,
        ffn_dim=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=LENGTH,
        word_embed_proj_dim=64,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    ),
    "smollm3": _of("SmolLM3", **SIZES),
    "glm4": _of("Glm4", **WITH_HEADS),
}
"""Configuration by architecture."""


def make_network(architecture: str, *, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """Return a network whose weights all differ, the same every time."""
    torch.manual_seed(0)
    network: PreTrainedModel = AutoModelForCausalLM.from_config(CONFIGS[architecture](), dtype=torch.float32)
    network.config.architectures = [type(network).__name__]  # else vLLM guesses, and takes some for embedding models
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(SCALE if parameter.ndim > 1 else 1.0).add_(torch.randn_like(parameter), alpha=NOISE)
    torch.nn.Module.to(network, dtype)
    return network.eval()


def write_tokenizer(folder: Path) -> None:
    """Write a tokenizer of one word per token."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["<bos>", "<eos>", *(f"w{number}" for number in range(2, VOCABULARY))]
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="<eos>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = {"bos_token": "<bos>", "eos_token": "<eos>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)
