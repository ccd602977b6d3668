"""What is published is what `save_pretrained` would write, and a network that it would not fit is refused."""

import json
from pathlib import Path

import pytest
import torch
from architectures import make_network
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from isentrope.errors import ConfigError
from isentrope.learner.training.model import load_policy
from isentrope.learner.training.weight_source import WeightSource, names_in_files

ARCHITECTURES = ("llama", "qwen3", "gemma3", "gpt2", "qwen3_moe", "mixtral", "olmoe", "glm4_moe", "deepseek_v3")
FILE = "model.safetensors"


@pytest.fixture(scope="module", params=ARCHITECTURES)
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[PreTrainedModel, Path]:
    """A network made from its configuration, and the folder it was saved to."""
    network, folder = make_network(request.param), tmp_path_factory.mktemp(request.param)
    network.save_pretrained(folder)
    return network, folder


def is_equal(published: dict[str, Tensor], written: dict[str, Tensor]) -> bool:
    """True for the same names, dtypes, shapes and bits."""
    same = published.keys() == written.keys()
    return same and all(
        value.dtype == written[name].dtype and torch.equal(value, written[name]) for name, value in published.items()
    )


def test_a_network_made_from_its_configuration_is_published_as_it_is_saved(saved: tuple[PreTrainedModel, Path]) -> None:
    network, folder = saved
    published = dict(WeightSource(network).published())
    assert is_equal(published, load_file(folder / FILE))
    assert WeightSource(network).names == published.keys() == names_in_files(folder)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_loaded_network_is_published_as_it_is_saved(
    saved: tuple[PreTrainedModel, Path], tmp_path: Path, dtype: torch.dtype
) -> None:
    """In bf16 some buffers stay in fp32, so each tensor has a dtype of its own."""
    network = AutoModelForCausalLM.from_pretrained(saved[1], dtype=dtype)
    network.save_pretrained(tmp_path)
    assert is_equal(dict(WeightSource(network).published()), load_file(tmp_path / FILE))


def test_names_in_memory_load_a_copy_of_the_same_network(saved: tuple[PreTrainedModel, Path]) -> None:
    network, folder = saved
    copy = dict(AutoModelForCausalLM.from_pretrained(folder).named_parameters())
    assert all(torch.equal(copy[name], value) for name, value in WeightSource(network).in_memory())


def test_a_weight_that_no_file_knows_is_refused(tmp_path: Path) -> None:
    make_network("llama").save_pretrained(tmp_path)
    tensors = load_file(tmp_path / FILE)
    tensors["model.layers.0.mlp.renamed.weight"] = tensors.pop("model.layers.0.mlp.up_proj.weight")
    save_file(tensors, tmp_path / FILE, metadata={"format": "pt"})
    with pytest.raises(ConfigError, match=r"1 of \d+ weights of LlamaForCausalLM.*layers.0.mlp.up_proj"):
        load_policy(str(tmp_path), dtype=torch.float32, device=torch.device("cpu"), gradient_checkpointing=False)


@pytest.mark.parametrize("kind", ["sharded", "without_prefix", "with_more", "not_safetensors"])
def test_files_of_other_forms_are_understood(tmp_path: Path, kind: str) -> None:
    """In shards, without the prefix of the model's body as GPT-2's own, with weights that nothing reads, pickled."""
    network = make_network("gpt2")
    network.save_pretrained(tmp_path, max_shard_size=50_000 if kind == "sharded" else "5GB")
    if kind == "sharded":
        assert len(names_in_files(tmp_path)) == len(WeightSource(network).names)
        assert not (tmp_path / FILE).exists()
    elif kind == "not_safetensors":
        (tmp_path / FILE).unlink()
    else:
        tensors = load_file(tmp_path / FILE)
        if kind == "without_prefix":
            tensors = {name.removeprefix("transformer."): value for name, value in tensors.items()}
        else:
            tensors["transformer.h.0.attn.masked_bias"] = torch.zeros(1)
        save_file(tensors, tmp_path / FILE)
    WeightSource(network).check(tmp_path)


def test_damaged_files_are_a_config_error(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps([]))
    with pytest.raises(ConfigError, match="cannot be read"):
        names_in_files(tmp_path)
