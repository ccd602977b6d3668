"""A tiny model as files: configuration, tokenizer, published weights; and its log-probabilities by transformers."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from isentrope.rollout.wire.proof import Canary
from isentrope.rollout.wire.types import Float32, Int32, version_of
from isentrope.rollout.wire.weights import Manifest, version_folder

if TYPE_CHECKING:
    from transformers import LlamaConfig, LlamaForCausalLM


OPERATIONS = [f"{sign}{digit}" for sign in "+-*" for digit in range(10)]
VOCABULARY = ["<pad>", "<bos>", "<eos>", *map(str, range(10)), *OPERATIONS, ">", ":", "="]


def _config() -> "LlamaConfig":
    from transformers import LlamaConfig

    return LlamaConfig(
        architectures=["LlamaForCausalLM"],
        vocab_size=len(VOCABULARY),
        hidden_size=96,
        num_hidden_layers=3,
        num_attention_heads=3,
        head_dim=32,
        num_key_value_heads=1,
        intermediate_size=256,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        dtype="float32",
    )


def write_model(folder: Path) -> None:
    """Write configuration and tokenizer, no weights."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    _config().save_pretrained(folder)
    ids = {word: number for number, word in enumerate(VOCABULARY)}
    words = Tokenizer(models.WordLevel(ids, unk_token="<pad>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 1)])
    special = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>"}
    PreTrainedTokenizerFast(tokenizer_object=words, **special).save_pretrained(folder)


@dataclass(frozen=True, slots=True)
class Version:
    """Published weights, and the same weights in transformers."""

    manifest: Manifest
    model: "LlamaForCausalLM"

    def logp(self, prompt: Int32, tokens: Int32) -> Float32:
        """Log-probability of each of `tokens` after `prompt`: [T]."""
        return _logp(self.model, prompt, tokens)


def _logp(model: "LlamaForCausalLM", prompt: Int32, tokens: Int32) -> Float32:
    import torch

    with torch.no_grad():
        logits = model(torch.tensor(np.concatenate([prompt, tokens]))[None].long()).logits[0]
    picked = logits.log_softmax(-1)[len(prompt) - 1 : -1].gather(-1, torch.tensor(tokens)[:, None].long())
    values: Float32 = picked[:, 0].numpy()
    return values


def publish(output_dir: Path, batch: int) -> Version:
    """Write the weights of a batch. Those of two batches differ; what they sample from is far from uniform."""
    import torch
    from transformers import LlamaForCausalLM

    from isentrope.learner.training.weight_files import write_version
    from isentrope.learner.training.weight_source import WeightSource

    torch.manual_seed(batch)
    model = LlamaForCausalLM(_config()).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.mul_(8.0)
    version = version_of(1, batch)
    tokens = np.random.default_rng(batch).integers(0, len(VOCABULARY), 97).astype(np.int32)
    canary = Canary(tokens=tokens.tolist(), logp=_logp(model, tokens[:1], tokens[1:]).tolist())
    weights = WeightSource(model).published()
    return Version(
        write_version(weights, version_folder(output_dir, version), version=version, canary=canary),
        model,
    )
