"""A tiny model, published versions of it, and what transformers says of its log-probabilities."""

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import pytest

from isentrope.rollout.types import Float32, Int32, version_of
from isentrope.rollout.weights import Manifest, make_manifest, version_folder

if TYPE_CHECKING:
    from transformers import LlamaConfig, LlamaForCausalLM

    from isentrope.actors.engine import Engine

T = TypeVar("T")

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


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Configuration and tokenizer of the tiny model, without weights."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("model")
    _config().save_pretrained(folder)
    ids = {word: number for number, word in enumerate(VOCABULARY)}
    words = Tokenizer(models.WordLevel(ids, unk_token="<pad>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 1)])
    special = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>"}
    PreTrainedTokenizerFast(tokenizer_object=words, **special).save_pretrained(folder)
    return folder


@dataclass(frozen=True, slots=True)
class Version:
    """Published weights, and the same weights in transformers."""

    manifest: Manifest
    model: "LlamaForCausalLM"

    def logp(self, prompt: Int32, tokens: Int32) -> Float32:
        """Log-probability of each of `tokens` after `prompt`: [T]."""
        import torch

        with torch.no_grad():
            logits = self.model(torch.from_numpy(np.concatenate([prompt, tokens]))[None].long()).logits[0]
        picked = logits.log_softmax(-1)[len(prompt) - 1 : -1].gather(-1, torch.from_numpy(tokens)[:, None].long())
        return picked[:, 0].numpy()


@pytest.fixture(scope="session")
def publish() -> Callable[[Path, int], Version]:
    """Writes the weights of a batch into an output folder. Batches differ; sampling is far from uniform."""

    def write(output_dir: Path, batch: int) -> Version:
        import torch
        from safetensors.torch import save_file
        from transformers import LlamaForCausalLM

        torch.manual_seed(batch)
        model = LlamaForCausalLM(_config()).eval()
        with torch.no_grad():
            for weight in model.parameters():
                if weight.ndim > 1:
                    weight.mul_(8.0)
        tensors = {name: weight.detach().contiguous() for name, weight in model.named_parameters()}
        folder = version_folder(output_dir, version_of(1, batch))
        folder.mkdir(parents=True)
        save_file(tensors, folder / "weights-00000.safetensors")
        table = {name: ("float32", tuple(tensor.shape)) for name, tensor in tensors.items()}
        manifest = make_manifest(
            folder, version=version_of(1, batch), dtype="float32", parameters=table, files=["weights-00000.safetensors"]
        )
        return Version(manifest, model)

    return write


@pytest.fixture(scope="session")
def versions(tmp_path_factory: pytest.TempPathFactory, publish: Callable[[Path, int], Version]) -> list[Version]:
    """Three versions of one learner."""
    folder = tmp_path_factory.mktemp("output")
    return [publish(folder, batch) for batch in range(3)]


@pytest.fixture(scope="session")
def runner() -> Iterator[asyncio.Runner]:
    """The event loop that the session's engine lives in."""
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture(scope="session")
def engine(runner: asyncio.Runner, model_dir: Path) -> "Iterator[Engine]":
    """One engine for all tests of the session; load what you need, and leave it able to serve."""
    from isentrope.actors.engine import Engine, EngineOptions

    options = EngineOptions(str(model_dir), "float32", max_model_len=512, kv_cache_gib=0.5)
    engine = runner.run(Engine.start(options))
    yield engine
    runner.run(engine.close())
